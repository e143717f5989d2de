"""From a federation file to the setup of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choral.config.federation import FederationFile
from choral.config.fresh import new_run_id, seed_or_drawn
from choral.config.references import is_reference, resolve
from choral.core.canonical import canonical_json
from choral.core.checks import one_of
from choral.core.errors import ConfigError, NotBuilt
from choral.core.task import ClientSource, Task
from choral.data import (
    FolderSource,
    Schema,
    as_source,
    partition_data,
    partition_file,
    read_examples,
)
from choral.data.sources import TEST_FRACTION
from choral.federation.compose import aggregation_of, compose
from choral.federation.evaluation import measures_clients
from choral.federation.participant import own_code
from choral.federation.setup import Evaluation, RunSetup, split_seed
from choral.privacy.terms import Privacy, privacy_of
from choral.tasks.zoo import build as build_model


@dataclass(frozen=True, slots=True)
class Place:
    """Where the words of a federation file are looked up.

    Attributes:
        folder: The file's folder: relative paths start here, and modules are found here first.
        data: Replaces `simulation.data`; relative to the working folder.
    """

    folder: Path
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """The clients of a deployment, who bring their own data.

    Attributes:
        source: Their ids, labels and rough numbers of examples.
        population: How many there are.
    """

    source: ClientSource
    population: int


def build_setup(
    file: FederationFile,
    place: Place,
    *,
    held_out: bool = True,
    deployed: Deployed | None = None,
) -> RunSetup:
    """Return the run that a federation file describes.

    Args:
        file: The file.
        place: Where its words are looked up.
        held_out: Read the held-out set; a worker process does without it.
        deployed: The clients of a deployment; None for those of the file's `simulation`.

    Raises:
        ConfigError: A setting is missing, unknown, out of its range, or not built yet.
        DataError: The clients' data cannot be used.
    """
    _refuse_unbuilt(file)
    if file.rounds is None:
        raise ConfigError("`rounds` is missing", hint="such as `rounds: 10`")
    seed = seed_or_drawn(file.seed)
    name = name_of(file, place)
    schema = schema_of(file, place)
    unasked = deployed is not None and file.schema_ is None  # of its clients
    task = _task(file, place)
    source = _source(file, place, seed) if deployed is None else deployed.source
    population = len(source.ids) if deployed is None else deployed.population
    evaluation = file.evaluation
    privacy = privacy_of_file(file)
    return compose(
        task,
        source,
        run_id=new_run_id(name),
        seed=seed,
        name=name,
        task_name=file.task or f"model:{(file.model or {}).get('type')}",
        rounds=file.rounds,
        clients_per_round=file.clients_per_round,
        strategy=file.strategy,
        selection=file.selection,
        aggregation=file.aggregation,
        local=_given(file.local),
        round={k: v for k, v in _given(file.round).items() if k != "step_s"},
        evaluation=Evaluation(
            _held_out(file, place) if held_out else None,
            measures_clients(
                evaluation.clients, population=population, private=privacy is not None
            ),
        ),
        evaluate_every=1 if evaluation.every is None else evaluation.every,
        encoding=_given(file.encoding),
        privacy=privacy,
        arguments=_arguments(file),
        test_fraction=test_fraction_of(file),
        population=None if deployed is None else population,
        config={
            **file.as_json(),
            "seed": seed,
            **({"data": place.data} if place.data else {}),
            **({} if schema is None or unasked else {"data_schema": _named_schema(schema)}),
        },
    )


def schema_of(file: FederationFile, place: Place) -> Schema | None:
    """Return the data schema that a federation file names, None where it names none.

    Raises:
        ConfigError: The schema's file cannot be read, or is no schema; or the file names two.
    """
    whole, simulated = file.schema_, file.simulation.schema_
    if whole is not None and simulated is not None:
        raise ConfigError(
            f"`schema` is {whole} and `simulation.schema` is {simulated}",
            hint="`schema` alone holds for the clients of a deployment and of a simulation",
        )
    name = whole or simulated
    return None if name is None else Schema.from_yaml(place.folder / name)


def _named_schema(schema: Schema) -> dict[str, Any]:
    """Return a data schema as lineages tell it."""
    return {"version": schema.version, "fingerprint": schema.fingerprint}


def name_of(file: FederationFile, place: Place) -> str:
    """Return the federation's name: its own, else that of its folder."""
    return file.name or place.folder.resolve().name or "federation"


def _refuse_unbuilt(file: FederationFile) -> None:
    aggregation_of(file.aggregation)
    if file.compression is not None:
        raise NotBuilt("`compression` is not built yet", hint="leave `compression` out")


def privacy_of_file(file: FederationFile) -> Privacy | None:
    """Return what differential privacy a federation file asks for."""
    return privacy_of(None if file.privacy is None else _given(file.privacy))


def _given(section: Any) -> dict[str, Any]:
    """Return the keys of a section that were set."""
    given: dict[str, Any] = section.model_dump(exclude_none=True)
    return given


def _task(file: FederationFile, place: Place) -> Task:
    if (file.task is None) == (file.model is None):
        raise ConfigError(
            "expected either `task` or `model`",
            hint="`task: module:attribute`, or `model: {type: logistic, input_dim: 10}`",
        )
    if file.model is not None:
        arguments = dict(file.model)
        kind = arguments.pop("type", None)
        if not isinstance(kind, str):
            raise ConfigError("`model` has no `type`", hint="linear, logistic, mlp or cnn")
        return build_model(kind, **arguments)
    task: Task = resolve(file.task or "", place.folder, what="task")
    return task


def _arguments(file: FederationFile) -> str:
    """Return the arguments of a built-in model as canonical JSON; empty where there is none."""
    if file.model is None:
        return ""
    return canonical_json({k: v for k, v in file.model.items() if k != "type"}).decode()


def test_fraction_of(file: FederationFile) -> float:
    """Return the part of its examples that each client holds out."""
    fraction = file.evaluation.test_fraction
    if fraction is None:
        return 0.0 if file.evaluation.held_out else TEST_FRACTION
    return fraction


def _source(file: FederationFile, place: Place, seed: int) -> ClientSource:
    simulation = file.simulation
    fraction = test_fraction_of(file)
    where = place.data or simulation.data
    if where is None:
        raise ConfigError("`simulation.data` is missing", hint="or give `--data PATH`")
    if is_reference(where):
        found = _named("simulation.data", where, place)
        if simulation.partition is not None:
            return partition_data(found, simulation.partition, seed=seed, test_fraction=fraction)
        return as_source(found, test_fraction=fraction, seed=split_seed(seed))
    path = Path(where) if place.data else place.folder / where
    if path.is_dir():
        if simulation.partition is not None:
            raise ConfigError(f"{path} is a folder, and `partition` deals out one file")
        return FolderSource(
            path,
            test_fraction=fraction,
            seed=split_seed(seed),
            strata=simulation.strata,
            leave_out=_held_out_file(file, place),
            **_reading(file, place),
        )
    if simulation.partition is None:
        what = "is one file" if path.exists() else "does not exist"
        raise ConfigError(
            f"simulation.data {path} {what}",
            hint="give a folder with one file a client, or add "
            "`partition: {name: iid, clients: 10}`",
        )
    return partition_file(
        path, simulation.partition, seed=seed, test_fraction=fraction, **_reading(file, place)
    )


def _reading(file: FederationFile, place: Place) -> dict[str, Any]:
    """Return how data files are read."""
    simulation = file.simulation
    missing = one_of("simulation.missing", simulation.missing or "raise", ("raise", "drop"))
    return {"target": simulation.target, "missing": missing, "schema": schema_of(file, place)}


def _held_out(file: FederationFile, place: Place) -> Any:
    where = file.evaluation.held_out
    if where is None:
        return None
    path = _held_out_file(file, place)
    if path is not None:
        return read_examples(path, **_reading(file, place))
    found = _named("evaluation.held_out", where, place)
    if found is None:
        raise ConfigError(f"evaluation.held_out `{where}` returned None", hint="expected (X, y)")
    return found


def _named(what: str, reference: str, place: Place) -> Any:
    """Return what a `module:function` returns, or what a `module:attribute` is."""
    given = resolve(reference, place.folder, what=what)
    if not callable(given):
        return given
    with own_code(f"{what} `{reference}`"):
        return given()


def _held_out_file(file: FederationFile, place: Place) -> Path | None:
    """Return the file of the held-out set, or None where it is no file."""
    where = file.evaluation.held_out
    return None if where is None or is_reference(where) else place.folder / where
