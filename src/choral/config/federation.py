"""What may stand in a federation file, and what each key means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from choral.config.yaml import load
from choral.core.errors import ConfigError, UnknownKey, did_you_mean


class Section(BaseModel):
    """A part of the file. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LocalSection(Section):
    """Local training; what is absent is the task's own.

    Attributes:
        epochs: Passes over a client's examples.
        steps: Optimiser steps, instead of epochs.
        batch_size: Examples per step.
        lr: Learning rate.
        shuffle: New order for every pass.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    shuffle: bool | None = None


class RoundSection(Section):
    """When a round is over.

    Attributes:
        goal: Completed clients that close it; default `clients_per_round`.
        quorum: Enough at the deadline; default the goal's majority, at least 2.
        over_selection: Factor of clients invited beyond the goal.
        deadline_s: Seconds until it takes what is there.
        grace_s: Seconds that it waits on below its quorum.
        retries: Attempts beyond the first before the run pauses.
        backoff_s: Seconds before the first retry.
        step_s: Seconds that a step of secure aggregation waits for the slow; default 30. A
            simulation has no need of it.
    """

    goal: int | None = None
    quorum: int | None = None
    over_selection: float | None = None
    deadline_s: float | None = None
    grace_s: float | None = None
    retries: int | None = None
    backoff_s: float | None = None
    step_s: float | None = Field(default=None, gt=0)


class StartSection(Section):
    """When a coordinator opens a round; a simulation has all its clients at once.

    Attributes:
        wait_s: Seconds after which a quorum is enough, counted from when it was there; default 10.
        settle_s: Seconds without a new client after which a run takes those who are there, where
            nothing says how many there are; default 5.
        examples: Training examples that the available clients must have together.
        every_s: Seconds from the opening of one round to that of the next.
        manual: Each round waits for an operator.
    """

    wait_s: float | None = None
    settle_s: float | None = None
    examples: int | None = None
    every_s: float | None = None
    manual: bool | None = None


class EvaluationSection(Section):
    """How the model is measured.

    Attributes:
        every: Rounds between evaluations; 0 evaluates at the end alone.
        clients: Measure on clients' own test parts, and report it without noise; default yes for
            up to 1 000 clients, and no where the run has `privacy`.
        held_out: A CSV or Parquet file, or `module:function` returning examples.
        test_fraction: Part of each client's examples that is held out; default 0.2, or 0 where
            `held_out` is given.
    """

    every: int | None = Field(default=None, ge=0)
    clients: bool | None = None
    held_out: str | None = None
    test_fraction: float | None = Field(default=None, ge=0, lt=1)


class EncodingSection(Section):
    """Grid of the exact sum.

    Attributes:
        range: Bound of a coordinate of one weighted update; default 256.
        weight_unit: The weight that counts as 1; default follows the largest client of a cohort
            where all tell their number of examples, else 1 024.
        weight_cap: Weight above which a client is refused; default 1 024 times the largest
            number of examples in the cohort, or that number rounded up to a power of two in a
            secure sum.
        metrics: Bounds of what clients measure into a secure sum, by name; `train_loss` and
            `update_norm` have one, and what has none stays with the client.
    """

    range: float | None = None
    weight_unit: float | None = None
    weight_cap: float | None = None
    metrics: dict[str, float] | None = None


class StorageSection(Section):
    """Where runs rest.

    Attributes:
        path: Folder of the runs; default `runs`.
        database: URL of a coordinator's database, such as `postgresql://host/choral`, which
            several coordinators may share; default one in each run's own folder.
        blobs: Where a coordinator keeps states and uploads, such as `s3://bucket/prefix`; default
            the folder of the run.
    """

    path: str | None = None
    database: str | None = None
    blobs: str | None = None


class SimulationSection(Section):
    """What only a simulation needs.

    Attributes:
        data: A folder with one CSV or Parquet file a client, one file with `partition`, or
            `module:function` returning clients.
        partition: `{name: …, clients: …}` and the partitioner's arguments.
        target: Column to predict; default the last.
        missing: `raise` or `drop` for rows with missing values.
        schema_: Data schema, a YAML file; written `schema`. Default the federation's.
        strata: Client to its labels, for a folder of files.
        dropout: Probability that an invited client is lost.
        latency_s: Median virtual seconds to an answer.
        spread: Standard deviation of the logarithm of those seconds.
    """

    data: str | None = None
    partition: dict[str, Any] | None = None
    target: str | None = None
    missing: str | None = None
    schema_: str | None = Field(default=None, alias="schema")
    strata: dict[str, dict[str, str]] | None = None
    dropout: float = 0.0
    latency_s: float = 0.0
    spread: float = 0.0


class TlsSection(Section):
    """Certificates of a coordinator; a simulation has no network and reads none of them.

    Attributes:
        folder: A folder of `choral pki coordinator`, which stands for all of the others.
        certificate: Its certificate.
        key: The certificate's private key.
        authority: The TLS authority's certificate, where it came another way than `federation`,
            which must name the same one.
        federation: `federation.json`: whom clients' certificates are checked against.
        signing_key: Signs receipts and messages of secure aggregation.
        revoked: The authority's revocation list.
    """

    folder: str | None = None
    certificate: str | None = None
    key: str | None = None
    authority: str | None = None
    federation: str | None = None
    signing_key: str | None = None
    revoked: str | None = None


class BudgetSection(Section):
    """What may be released about a population, over all of its runs in one storage.

    Attributes:
        epsilon: Hard limit; a round that would pass it is not sent, and the run ends.
        delta: That it goes with; default that of `privacy`.
        population: Name of the people; default the federation's name.
    """

    epsilon: float
    delta: float | None = None
    population: str | None = None


class PrivacySection(Section):
    """Differential privacy: `epsilon`, or `noise_multiplier` with `max_norm`.

    Attributes:
        mode: `central` (noise at a trusted coordinator), `distributed` (noise at the clients, below
            a secure sum) or `record` (in each step of local training). Default by `aggregation`:
            `distributed` where it is secure, `central` where it is plain.
        epsilon: Upper bound for all rounds; the noise follows from it, in mode `record` for each
            client by its own number of records.
        delta: That it goes with; default 1e-5.
        noise_multiplier: Noise over the bound of one contribution, instead of `epsilon`.
        max_norm: L2 norm that each update is clipped to, or in mode `record` the gradient of each
            record; default 1 with `epsilon`.
        clip: `adaptive`, or `{name: adaptive, quantile: 0.5}`: in mode `central`, `max_norm` is
            where the clip starts, and it follows that quantile of the updates' norms.
        mechanism: Of distributed noise: `skellam` (default) or `discrete_gaussian`.
        relation: `add_remove`, `replace` or `zero_out`; default `add_remove` for central and
            `replace` for distributed noise.
        budget: Limit over all runs of a population.
        dp_enabled: `false` stands for no `privacy` at all.
        max_grad_norm: Stands for `mode: record` and its `max_norm`.
    """

    mode: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    max_norm: float | None = None
    clip: str | dict[str, Any] | None = None
    mechanism: str | None = None
    relation: str | None = None
    budget: BudgetSection | None = None
    dp_enabled: bool | None = None
    max_grad_norm: float | None = None


class FederationFile(Section):
    """A federation.

    Attributes:
        name: Name for people; default the file's folder.
        task: `module:attribute` on the Python path, where the file's folder is first.
        model: Built-in model instead of a task: `{type: linear | logistic | mlp | cnn, …}`.
        rounds: Rounds to commit.
        clients_per_round: A count, or a fraction; default all.
        strategy: A name, or `{name: …}` and arguments; default fedavg.
        selection: A name, or `{name: …}` and arguments; default uniform.
        aggregation: `plain`, `secure`, or `{secure: {suite: …, min_cohort: …, corrupt: …,
            dropout: …, modulus_bits: …, groups: …, rule: …}}`.
        local: Local training.
        compression: Not built yet.
        privacy: Differential privacy.
        round: When a round is over.
        start: When a coordinator opens one.
        evaluation: How the model is measured.
        encoding: Grid of the exact sum.
        storage: Where runs rest.
        schema_: Data schema that every client must have, a YAML file; written `schema`.
        tls: Certificates of a coordinator.
        simulation: What only a simulation needs.
        seed: 0 to 2^63 - 1; drawn and reported where it is absent.
    """

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: str | None = None
    model: dict[str, Any] | None = None
    rounds: int | None = Field(default=None, ge=1)
    clients_per_round: float | int | None = Field(default=None, gt=0)
    strategy: str | dict[str, Any] | None = None
    selection: str | dict[str, Any] | None = None
    aggregation: str | dict[str, Any] | None = None
    local: LocalSection = LocalSection()
    compression: Any = None
    privacy: PrivacySection | None = None
    round: RoundSection = RoundSection()
    start: StartSection = StartSection()
    evaluation: EvaluationSection = EvaluationSection()
    encoding: EncodingSection = EncodingSection()
    storage: StorageSection = StorageSection()
    schema_: str | None = Field(default=None, alias="schema")
    tls: TlsSection | None = None
    simulation: SimulationSection = SimulationSection()
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    def as_json(self) -> dict[str, Any]:
        """Return what was set, as JSON."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in body.items() if value != {}}


def read_file(path: Path, settings: list[str] | None = None) -> FederationFile:
    """Return the federation of a YAML file.

    Args:
        path: The file.
        settings: `KEY=VALUE` each, KEY with dots for sections and VALUE in YAML; they win.

    Raises:
        ConfigError: The file cannot be read, or a value is wrong.
        UnknownKey: A key that nobody reads; the hint names the nearest.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path}: {reason}") from None
    body = load(text, where=str(path))
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: expected keys and values", hint="such as `rounds: 10`")
    for setting in settings or []:
        _apply(body, setting)
    return parse(body, where=str(path))


def parse(body: dict[str, Any], *, where: str) -> FederationFile:
    """Return the federation of a dictionary; see `read_file`."""
    try:
        file = FederationFile.model_validate(body)
        file.as_json()
    except ValidationError as error:
        raise _explain(error, where) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: a value holds itself: {error}") from None
    return file


def _apply(body: dict[str, Any], setting: str) -> None:
    """Put one `KEY=VALUE` into the file's body."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: expected KEY=VALUE", hint="such as `local.lr=0.1`")
    value = load(text, where=f"--set {setting}")
    *sections, last = key.split(".")
    place = body
    for section in sections:
        inner = place.setdefault(section, {})
        if isinstance(inner, str):
            inner = place[section] = _spelled_out(section, inner)
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: `{section}` is {inner!r}, not a section")
        place = inner
    place[last] = value


def _spelled_out(section: str, name: str) -> dict[str, Any]:
    """Return the mapping that a name alone stands for."""
    return {name: {}} if section == "aggregation" else {"name": name}


def _explain(error: ValidationError, where: str) -> ConfigError:
    """Return the first problem that pydantic found, in this project's words."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _keys_of(location[:-1])
        return UnknownKey(f"{where}: unknown key `{key}`", hint=did_you_mean(location[-1], known))
    message = first["msg"][0].lower() + first["msg"][1:]
    return ConfigError(f"{where}: `{key}` is {first.get('input')!r}: {message}")


def _keys_of(location: list[str]) -> list[str]:
    """Return the keys of the section at `location`."""
    section: Any = FederationFile
    for part in location:
        annotation = section.model_fields[part].annotation
        section = next(
            (t for t in (annotation, *getattr(annotation, "__args__", ())) if _is_section(t)),
            section,
        )
    return [f.alias or name for name, f in section.model_fields.items()]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
