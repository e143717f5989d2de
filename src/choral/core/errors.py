"""Every error a user can meet, in one tree.

```
ChoralError                     code, hint, exit code, retryable
├── ConfigError                 a setting is wrong (exit 2)
│   ├── UnknownKey              a key nobody reads; names the nearest one
│   ├── UnknownName             a strategy, selection, model … that does not exist
│   ├── TaskNotFound            `module:attribute` cannot be imported
│   ├── PlanError               parts that do not compose
│   ├── NotBuilt                a documented command or option that this version lacks
│   ├── MissingExtra            an optional package is not installed
│   └── CertificateError        a key, certificate or enrolment cannot be used
├── DataError                   local data cannot be used (exit 2)
│   ├── CorruptRow              file, line and column of the bad cell
│   ├── SchemaMismatch          columns that differ from the declared schema
│   └── EmptyClient             a client without examples
├── UpdateRejected              a client's update is refused (exit 1)
│   ├── WrongShape              its vector does not fit the model
│   ├── NotFinite               NaN or infinity
│   └── OutOfRange              beyond the declared range of the sum
├── ClientError                 a client's own code failed (exit 1)
│   └── WorkerLost              the process that ran a client ended
├── RunFailed                   the run cannot go on (exit 1)
│   ├── NoQuorum                too few clients completed a round
│   └── RoundSpent              clients helped to unmask an attempt, and join no other of its round
├── StoreError                  the run's storage says no (exit 2)
│   ├── RunExists               the output folder already holds a run
│   ├── NothingToResume         no unfinished run there
│   ├── ResumeMismatch          the unfinished run has another configuration
│   ├── Fenced                  another process drives this run now
│   ├── Conflict                a log has grown since it was read
│   ├── StoreUnavailable        the storage cannot be reached just now
│   ├── TamperedLedger          a privacy ledger has been edited, cut or reordered
│   │   └── RolledBackLedger    it is older than one that was seen before
│   ├── TamperedAudit           an audit trail has been edited, cut or reordered
│   └── CorruptBlob             stored bytes do not match their digest
├── TransferError               bytes that came are not those that were announced (exit 1)
│   ├── Malformed               they are no message, or one that says what cannot be
│   ├── TooLarge                more of them than allowed or declared
│   ├── WrongDigest             their SHA-256 is another
│   ├── Truncated               they ended before the last one
│   ├── OutOfOrder              some before them are missing
│   └── CorruptChunk            a chunk does not match its checksum
├── Unavailable                 the other side cannot be reached, or not yet (exit 1)
└── Refused                     policy, budget or authorisation (exit 3)
    ├── BudgetExhausted         a release would pass the privacy budget
    ├── RolledBackAudit         a coordinator's audit trail is older than one that was seen before
    ├── Stale                   a token of work that is over, or of nobody's
    └── VersionMismatch         the two sides have no version of the protocol in common
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ChoralError(Exception):
    """Base of all errors that Choral raises on purpose.

    Args:
        message: What was wrong, with the value, and what was expected.
        hint: What the reader can do about it; empty when there is nothing to add.
        details: The traceback of somebody else's code, where that is the cause.
    """

    code: str = "error"
    exit_code: int = 1
    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(ChoralError):
    """A setting is wrong."""

    code = "config"
    exit_code = 2


class UnknownKey(ConfigError):
    """A key that nobody reads."""

    code = "unknown_key"


class UnknownName(ConfigError):
    """A name that is not registered."""

    code = "unknown_name"


class TaskNotFound(ConfigError):
    """A `module:attribute` reference cannot be imported."""

    code = "task_not_found"


class PlanError(ConfigError):
    """Parts of a plan that do not compose."""

    code = "plan"


class NotBuilt(ConfigError):
    """A documented command or option that this version does not have yet."""

    code = "not_built"


class MissingExtra(ConfigError):
    """An optional package is not installed."""

    code = "missing_extra"


class CertificateError(ConfigError):
    """A key, certificate or enrolment cannot be used."""

    code = "certificate"


class DataError(ChoralError):
    """Local data cannot be used."""

    code = "data"
    exit_code = 2


class CorruptRow(DataError):
    """One cell or row of a file cannot be read."""

    code = "corrupt_row"


class SchemaMismatch(DataError):
    """Data that does not have the declared columns."""

    code = "schema_mismatch"


class EmptyClient(DataError):
    """A client without examples."""

    code = "empty_client"


class UpdateRejected(ChoralError):
    """A client's update is refused; the round goes on without it."""

    code = "update_rejected"


class WrongShape(UpdateRejected):
    """An update whose vector does not fit the model."""

    code = "wrong_shape"


class NotFinite(UpdateRejected):
    """An update with NaN or infinity."""

    code = "not_finite"


class OutOfRange(UpdateRejected):
    """An update beyond the declared range of the sum."""

    code = "out_of_range"


class ClientError(ChoralError):
    """A client's own code failed."""

    code = "client_error"


class WorkerLost(ClientError):
    """The process that ran a client ended before it answered."""

    code = "worker_lost"


class RunFailed(ChoralError):
    """The run cannot go on.

    Attributes:
        result: What the run had reached, where there is something to show.
    """

    code = "run_failed"
    result: Any = None


class NoQuorum(RunFailed):
    """Too few clients completed a round."""

    code = "no_quorum"


class RoundSpent(RunFailed):
    """Clients that helped to unmask an attempt which failed join no other one of its round."""

    code = "round_spent"


class StoreError(ChoralError):
    """The run's storage says no."""

    code = "store"
    exit_code = 2


class RunExists(StoreError):
    """The output folder already holds a run."""

    code = "run_exists"


class NothingToResume(StoreError):
    """There is no unfinished run to resume."""

    code = "nothing_to_resume"


class ResumeMismatch(StoreError):
    """The unfinished run was started with another configuration."""

    code = "resume_mismatch"


class Fenced(StoreError):
    """Another process has taken the run over."""

    code = "fenced"
    exit_code = 1


class Conflict(StoreError):
    """A log has grown since it was read; nothing was appended."""

    code = "conflict"
    exit_code = 1
    retryable = True


class StoreUnavailable(StoreError):
    """The storage cannot be reached just now; whether the last write happened is not known."""

    code = "store_unavailable"
    exit_code = 1
    retryable = True


class TamperedLedger(StoreError):
    """A privacy ledger has been edited, cut or reordered."""

    code = "tampered_ledger"
    exit_code = 1


class RolledBackLedger(TamperedLedger):
    """A privacy ledger is older than one that was seen before."""

    code = "rolled_back_ledger"


class TamperedAudit(StoreError):
    """An audit trail has been edited, cut or reordered."""

    code = "tampered_audit"
    exit_code = 1


class CorruptBlob(StoreError):
    """Stored bytes do not match their digest."""

    code = "corrupt_blob"
    exit_code = 1


class TransferError(ChoralError):
    """Bytes that came over the network are not those that were announced."""

    code = "transfer"


class Malformed(TransferError):
    """Bytes that are no message, or a message that says what cannot be."""

    code = "malformed"


class TooLarge(TransferError):
    """More bytes than allowed or declared."""

    code = "too_large"


class WrongDigest(TransferError):
    """Bytes whose SHA-256 is not the declared one."""

    code = "wrong_digest"


class Truncated(TransferError):
    """A transfer that ended before its last byte."""

    code = "truncated"
    retryable = True


class OutOfOrder(TransferError):
    """A chunk that starts behind the next byte that is due."""

    code = "out_of_order"
    retryable = True


class CorruptChunk(TransferError):
    """A chunk that does not match its checksum."""

    code = "corrupt_chunk"
    retryable = True


class Unavailable(ChoralError):
    """The other side cannot be reached, or is not ready yet."""

    code = "unavailable"
    retryable = True


class Refused(ChoralError):
    """Policy, budget or authorisation says no."""

    code = "refused"
    exit_code = 3


class BudgetExhausted(Refused):
    """A release would pass the privacy budget of its population.

    Attributes:
        result: What the run had reached, where there is something to show.
    """

    code = "budget_exhausted"
    result: Any = None


class RolledBackAudit(Refused):
    """A coordinator's audit trail is older than, or another than, one that was seen before."""

    code = "rolled_back_audit"


class Stale(Refused):
    """A token of work that is over, or of nobody's."""

    code = "stale"


class VersionMismatch(Refused):
    """The two sides have no version of the protocol in common."""

    code = "version_mismatch"


GRPC_STATUS: dict[str, str] = {
    "config": "INVALID_ARGUMENT",
    "data": "FAILED_PRECONDITION",
    "update_rejected": "INVALID_ARGUMENT",
    "client_error": "ABORTED",
    "run_failed": "ABORTED",
    "store": "FAILED_PRECONDITION",
    "run_exists": "ALREADY_EXISTS",
    "nothing_to_resume": "NOT_FOUND",
    "fenced": "ABORTED",
    "conflict": "ABORTED",
    "store_unavailable": "UNAVAILABLE",
    "tampered_ledger": "DATA_LOSS",
    "tampered_audit": "DATA_LOSS",
    "corrupt_blob": "DATA_LOSS",
    "transfer": "INVALID_ARGUMENT",
    "too_large": "RESOURCE_EXHAUSTED",
    "wrong_digest": "DATA_LOSS",
    "truncated": "ABORTED",
    "out_of_order": "OUT_OF_RANGE",
    "corrupt_chunk": "DATA_LOSS",
    "unavailable": "UNAVAILABLE",
    "refused": "PERMISSION_DENIED",
    "budget_exhausted": "FAILED_PRECONDITION",
    "version_mismatch": "FAILED_PRECONDITION",
    "error": "UNKNOWN",
}
"""Branch of the tree (by its root's code) to the name of the gRPC status that carries it."""


def grpc_status(error: ChoralError) -> str:
    """Return the name of the gRPC status for an error: that of its nearest listed ancestor.

    >>> grpc_status(NotFinite("nan"))
    'INVALID_ARGUMENT'
    """
    for kind in type(error).__mro__:
        name = GRPC_STATUS.get(getattr(kind, "code", ""))
        if name is not None:
            return name
    return GRPC_STATUS["error"]


def by_code(code: str) -> type[ChoralError]:
    """Return the class of the tree that has this code; the root where there is none.

    >>> by_code("no_quorum").__name__
    'NoQuorum'
    """
    waiting = [ChoralError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind
        waiting.extend(kind.__subclasses__())
    return ChoralError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest known words, or lists them all.

    >>> did_you_mean("sead", ["rounds", "seed"])
    'did you mean `seed`?'
    >>> did_you_mean("roundz", ["round", "rounds", "seed"])
    'did you mean `round` or `rounds`?'
    """
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=2, cutoff=0.5)
    if near:
        likeness = [difflib.SequenceMatcher(None, word, option).ratio() for option in near]
        close = [o for o, value in zip(near, likeness, strict=True) if value > likeness[0] - 0.1]
        return "did you mean " + " or ".join(f"`{option}`" for option in close) + "?"
    return "known: " + ", ".join(options) if options else ""
