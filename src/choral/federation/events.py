"""What happens to a run (events) and what a run asks its driver to do (commands).

Events are the run's log: they are appended in order, and replaying them rebuilds the machines.
Commands are never stored, since the machines give the same ones again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeAlias

from choral.core.errors import StoreError
from choral.core.params import ClientId
from choral.core.ports import Record

# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run's first model is stored.

    Attributes:
        state: Digest of the stored state before round 1.
        model_sha256: Digest of the first global model.
    """

    state: str
    model_sha256: str


@dataclass(frozen=True, slots=True)
class CohortChosen:
    """The clients of an attempt have been chosen.

    Attributes:
        records: Where records are protected, the fewest and the most that each client trains on,
            one pair after the other; else empty.
    """

    round: int
    attempt: int
    clients: tuple[ClientId, ...]
    records: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """A client's contribution is here, checked and whole."""

    round: int
    attempt: int
    client: ClientId


@dataclass(frozen=True, slots=True)
class ClientFailed:
    """A client will not contribute, and says or shows why."""

    round: int
    attempt: int
    client: ClientId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the run asked for has run out; `timer` is deadline, grace or backoff."""

    round: int
    attempt: int
    timer: str


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The survivors' contributions have been summed.

    Attributes:
        count: Contributions in the sum.
        dropped: Invited clients that failed, or were waited for in vain.
        weight: Sum of their weights.
        bytes_up: Bytes of the contributions.
        bytes_down: Bytes of the models sent out.
        update_norm_max: Largest L2 norm of an update, or None where it cannot be seen.
        left_out: Clients whose group reached no sum of its own.
    """

    round: int
    attempt: int
    count: int
    dropped: int
    weight: float
    bytes_up: int
    bytes_down: int
    update_norm_max: float | None
    left_out: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class SumFailed:
    """The attempt can no longer reach its sum; `reason` says why."""

    round: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelReleased:
    """The ledger has let the aggregate go.

    Attributes:
        mechanism: What protects it; `none` where nothing does.
        epsilon: Bound of the run's releases so far, or None.
        delta: That it goes with, or None.
        population: Whose ledger holds the release, or None.
        entries: How long that ledger was then.
        head: Hash of its last entry.
    """

    round: int
    attempt: int
    mechanism: str
    epsilon: float | None
    delta: float | None
    population: str | None = None
    entries: int = 0
    head: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """The round's new state is durable.

    Attributes:
        state: Digest of the stored state after the round.
        model_sha256: Digest of the new global model.
        metrics: Weighted means of what clients measured while training.
        duration_s: Wall seconds of the attempt.
        kept: Digest of the blob with personal tensors that clients kept, or None.
    """

    round: int
    attempt: int
    state: str
    model_sha256: str
    metrics: Mapping[str, float]
    duration_s: float
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The global model has been measured.

    Attributes:
        metrics: On the held-out set, else over all clients' held-out examples together; None for
            what is no finite number.
        client_metrics: Client to its own metrics; empty where they were not asked for.
        mechanism: Privacy mechanism of this release, `none` where there is none.
    """

    round: int
    metrics: Mapping[str, float | None]
    client_metrics: Mapping[str, Mapping[str, float | None]]
    mechanism: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The driver died or stopped, and a new one goes on.

    Attributes:
        held: Clients of the open attempt whose contributions are still there.
        intact: The open attempt's sum is as it was: a secure one can go on.
    """

    held: tuple[ClientId, ...] = ()
    intact: bool = False


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Someone wants the run to end here."""

    reason: str


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The attempt would pass the privacy budget, so nobody was invited to it.

    Attributes:
        reason: What was spent, what is left.
    """

    round: int
    attempt: int
    reason: str


Event: TypeAlias = (
    RunStarted
    | CohortChosen
    | UpdateReceived
    | ClientFailed
    | TimerFired
    | Aggregated
    | SumFailed
    | ModelReleased
    | Committed
    | Evaluated
    | Restarted
    | StopRequested
    | OverBudget
)
RoundEvent: TypeAlias = (
    CohortChosen
    | UpdateReceived
    | ClientFailed
    | TimerFired
    | Aggregated
    | SumFailed
    | ModelReleased
    | Committed
    | Restarted
)

EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        RunStarted,
        CohortChosen,
        UpdateReceived,
        ClientFailed,
        TimerFired,
        Aggregated,
        SumFailed,
        ModelReleased,
        Committed,
        Evaluated,
        Restarted,
        StopRequested,
        OverBudget,
    )
}
"""Name in the log to type."""

# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChooseCohort:
    """Choose clients for an attempt; answer with `CohortChosen`."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Invite:
    """Send the plan to these clients; each answers `UpdateReceived` or `ClientFailed`, or never."""

    round: int
    attempt: int
    clients: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with `TimerFired` after `after_s` seconds."""

    round: int
    attempt: int
    timer: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Add the client's contribution to the sum of the attempt."""

    round: int
    attempt: int
    client: ClientId


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget a contribution; `reason` is duplicate, late, stale or uninvited."""

    round: int
    attempt: int
    client: ClientId
    reason: str


@dataclass(frozen=True, slots=True)
class CloseSum:
    """Close the sum over exactly these clients; answer with `Aggregated` or `SumFailed`."""

    round: int
    attempt: int
    survivors: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Ask the ledger to let the aggregate go; answer with `ModelReleased`."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Step the strategy and store the new state; answer with `Committed`."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Throw the attempt's sum away and tell its clients."""

    round: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure the global model after `round`; answer with `Evaluated`."""

    round: int
    final: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """The run ends; `status` is completed, failed or stopped."""

    status: str
    reason: str = ""


Command: TypeAlias = (
    ChooseCohort
    | Invite
    | SetTimer
    | Accumulate
    | Discard
    | CloseSum
    | Release
    | Commit
    | Abandon
    | Evaluate
    | Finish
)
Commands: TypeAlias = tuple[Command, ...]

# --- the log --------------------------------------------------------------------------------------


def to_record(event: Event) -> Record:
    """Return an event as a line of the log.

    >>> to_record(StopRequested("enough"))
    Record(kind='StopRequested', body={'reason': 'enough'})
    """
    return Record(
        type(event).__name__, {name: getattr(event, name) for name in _FIELDS[type(event)]}
    )


def from_record(record: Record) -> Event:
    """Return the event of a line of the log.

    Raises:
        StoreError: The line names no event, lacks a field, or has another one. A field with a
            default may be absent: an older version did not write it.
    """
    kind = EVENTS.get(record.kind)
    if kind is None or not _NEEDED[kind] <= record.body.keys() <= set(_FIELDS[kind]):
        raise StoreError(f"log line {record.kind} {sorted(record.body)} is not a known event")
    body = {n: tuple(v) if isinstance(v, list) else v for n, v in record.body.items()}
    event: Event = kind(**body)
    return event


_FIELDS: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind)) for kind in EVENTS.values()
}
_NEEDED: dict[type[Any], frozenset[str]] = {
    kind: frozenset(
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    )
    for kind in EVENTS.values()
}
