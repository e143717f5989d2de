"""`choral.simulate`: a federation in one call."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from choral.config.fresh import new_run_id, seed_or_drawn
from choral.core.aggregation import Aggregation
from choral.core.plan import Local
from choral.core.ports import Observer
from choral.core.selection import Selector
from choral.core.strategy import AnyStrategy
from choral.core.task import Task
from choral.data import as_source
from choral.federation.compose import compose
from choral.federation.evaluation import measures_clients
from choral.federation.setup import Evaluation, RunSetup, split_seed
from choral.privacy.terms import Privacy, privacy_of
from choral.privacy.vocabulary import delta_warning
from choral.simulation.availability import Arrival, Availability
from choral.simulation.launch import Launch, launch
from choral.telemetry.result import Result


def simulate(
    task: Task,
    *,
    clients: Any,
    rounds: int,
    clients_per_round: float | None = None,
    strategy: AnyStrategy | str | None = None,
    selection: Selector | str | None = None,
    aggregation: Aggregation | Mapping[str, Any] | str = "plain",
    privacy: Privacy | Mapping[str, Any] | None = None,
    local: Local | Mapping[str, Any] | None = None,
    evaluate: Any = None,
    evaluate_every: int = 1,
    evaluate_clients: bool | None = None,
    test_fraction: float | None = None,
    round_policy: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    seed: int | None = None,
    engine: str = "inline",
    workers: int = 2,
    arrival: Arrival | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    name: str = "simulation",
    observers: Iterable[Observer] = (),
) -> Result:
    """Train one model on data that stays with its clients, all on this machine.

    Args:
        task: The local work: one of `choral.tasks`, or anything with `init`, `train`, `evaluate`.
        clients: Client id to its data, or a lazy sequence of very many clients' data. For the
            built-in tasks a client's data is `(X, y)`, a PyTorch dataset, or a `ClientData` that
            brings its own test part.
        rounds: Rounds to commit, at least 1.
        clients_per_round: A count, or a fraction in (0, 1); default all.
        strategy: A strategy or its name; default `FedAvg()`, weighted by examples.
        selection: A selector or its name; default uniform.
        aggregation: `plain`, or `secure` for the real protocol; `{"secure": {…}}` with its terms,
            or a `choral.core.aggregation.Secure`.
        privacy: A `Privacy`, or a mapping with its fields; None for no differential privacy. Noise
            comes from the system, so that a run with it is not repeated by its seed.
        local: Epochs or steps, batch size, learning rate; default the task's own.
        evaluate: Held-out examples that belong to no client, such as `(X, y)`.
        evaluate_every: Rounds between evaluations; 0 evaluates at the end alone.
        evaluate_clients: Measure on clients' own test parts, and report it without noise; default
            yes for up to 1 000 clients, and no where the run has `privacy`.
        test_fraction: Part of each client's examples that is held out for its own evaluation;
            default 0.2, or 0 where `evaluate` is given.
        round_policy: Goal, quorum, over_selection, deadline_s, … as in `RoundPolicy`.
        encoding: `range` and `weight_cap` of the exact sum, see `choral.core.exact.Encoding`;
            `metrics` with bounds of what clients measure into a secure sum.
        seed: 0 to 2^63 - 1; drawn and reported where it is None.
        engine: `inline`, or `workers` for processes. The model is the same.
        workers: Processes of the engine `workers`.
        arrival: When clients answer, in virtual time; default at once.
        out: Folder for the model, its lineage, the result and the log; None keeps all in memory.
        resume: Go on with the unfinished run in `out`.
        name: What results call the federation.
        observers: Called with every event and command of the run.

    Returns:
        The result, with the model in `params`.

    Raises:
        BudgetExhausted: The privacy budget allows no further round; `result` likewise.
        RunFailed: Too few clients completed a round; `result` on the error tells what was reached.
        ConfigError: A setting is wrong.
        DataError: A client's data cannot be used.
        StoreError: `out` says no.
    """
    seed = seed_or_drawn(seed)
    if test_fraction is None:
        test_fraction = 0.2 if evaluate is None else 0.0
    source = as_source(clients, test_fraction=test_fraction, seed=split_seed(seed))
    privacy = privacy_of(privacy)
    measured = measures_clients(
        evaluate_clients, population=len(source.ids), private=privacy is not None
    )
    setup = compose(
        task,
        source,
        run_id=new_run_id(name),
        seed=seed,
        name=name,
        task_name=f"{type(task).__module__}:{type(task).__qualname__}",
        rounds=rounds,
        clients_per_round=clients_per_round,
        strategy=strategy,
        selection=selection,
        aggregation=aggregation,
        local=local,
        round=round_policy,
        evaluation=Evaluation(evaluate, measured),
        evaluate_every=evaluate_every,
        encoding=encoding,
        privacy=privacy,
        test_fraction=test_fraction,
    )
    if setup.privacy is not None and setup.privacy.mode != "record":
        unsafe = delta_warning(setup.privacy.delta, setup.population)
        if unsafe is not None:
            warnings.warn(f"privacy: {unsafe}", stacklevel=2)
    how = Launch(
        engine=engine,
        workers=workers,
        out=None if out is None else Path(out),
        resume=resume,
        arrival=arrival or Availability(),
        observers=observers,
    )
    config = _config(setup) | {"test_fraction": test_fraction, "arrival": repr(how.arrival)}
    return launch(replace(setup, config=config), how)


def _config(setup: RunSetup) -> dict[str, Any]:
    """Return a JSON of what defines a run, to recognise a resumed one."""
    return {
        "name": setup.name,
        "task": {"name": setup.task_name, **_fields(setup.task)},
        "rounds": setup.policy.rounds,
        "round": asdict(setup.policy.round),
        "strategy": {"name": setup.strategy.name, **_fields(setup.strategy)},
        "selection": {"name": setup.selector.name, **_fields(setup.selector)},
        "local": setup.local.as_json(),
        "encoding": {
            "range": setup.range,
            "weight_unit": setup.weight_unit,
            "weight_cap": setup.weight_cap,
            "metrics": dict(setup.metrics),
        },
        "aggregation": setup.aggregation.as_json(),
        "privacy": None if setup.privacy is None else setup.privacy.as_json(),
        "evaluate": {
            "every": setup.policy.evaluate_every,
            "clients": setup.evaluation.clients,
            "held_out": setup.evaluation.held_out is not None,
        },
        "seed": setup.seed,
    }


def _fields(part: Any) -> dict[str, Any]:
    """Return the fields of a strategy, selector or task as JSON, as far as they are."""
    if is_dataclass(part) and not isinstance(part, type):
        found: dict[str, Any] = json.loads(json.dumps(asdict(part), default=repr))
        return found
    return _scalars(getattr(part, "__dict__", {}))


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if isinstance(v, str | int | float | bool | None)}
