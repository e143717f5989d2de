"""The outside world, as protocols. Whoever implements one runs its suite in `choral.testing`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Clock(Protocol):
    """Time."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970-01-01 UTC, for people to read; may jump."""
        ...


class Rand(Protocol):
    """Secret randomness, for keys, masks and noise."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody can predict."""
        ...


class Transport(Protocol):
    """Moves opaque messages between a client and a coordinator."""

    def send(self, to: str, message: bytes) -> None:
        """Hand a message over for delivery: at most once, in any order."""
        ...

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """Return the next sender and message, or None when `timeout_s` have passed."""
        ...


class Identity(Protocol):
    """Who we are, and whom we believe."""

    def sign(self, message: bytes) -> bytes:
        """Return our signature over `message`."""
        ...

    def verify(self, who: str, message: bytes, signature: bytes) -> bool:
        """Return whether an enrolled party signed `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a run's log.

    Attributes:
        kind: Name of the event.
        body: Its fields as a JSON object.
    """

    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a run.

    Attributes:
        run_id: The run.
        epoch: Counts who held it; a writer with an older epoch is fenced off.
    """

    run_id: str
    epoch: int


class RunStore(Protocol):
    """Runs and their append-only logs, durable."""

    def create(self, run_id: str, header: dict[str, Any]) -> None:
        """Make a run with a JSON header. Raises `RunExists`."""
        ...

    def header(self, run_id: str) -> dict[str, Any]:
        """Return a run's header. Raises `NothingToResume` where there is no such run."""
        ...

    def runs(self) -> Sequence[str]:
        """Return the ids of all runs, oldest first."""
        ...

    def acquire(self, run_id: str) -> Lease:
        """Take a run over, whoever holds it: everyone who held it before is fenced off."""
        ...

    def append(
        self,
        lease: Lease,
        records: Iterable[Record],
        *,
        expect: int | None = None,
        forget: str | None = None,
    ) -> int:
        """Append records in one transaction; on return they are durable.

        Where the outcome is not known (`StoreUnavailable`), repeat the call with the same `expect`:
        either nothing had been written, or it raises `Conflict` and `read` tells what is there.

        Args:
            lease: The right to write.
            records: What to append.
            expect: How many records the writer believes were ever appended; None not to ask.
            forget: A kind of records: those of it that are in the log already are removed in the
                same transaction. Something must be appended with it.

        Returns:
            The number of records that were ever appended to the log; appending nothing tells it.

        Raises:
            Fenced: Someone took the run over; nothing was written.
            Conflict: The log holds another number than `expect`; nothing was written.
        """
        ...

    def read(self, run_id: str) -> Iterator[Record]:
        """Return the records of a run in the order in which they were appended."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class SharedRunStore(RunStore, Protocol):
    """Runs that several processes stand ready to drive, one at a time each.

    A lease taken with `claim` lasts for some seconds and is renewed while its owner lives. When it
    is over, another one may claim the run. That a lease is over forbids its holder nothing as long
    as nobody took the run: what fences a writer off is the epoch, never a clock.
    """

    def claim(self, run_id: str, *, owner: str, seconds: float) -> Lease | None:
        """Take a run where nobody's lease lasts, or where the lease that lasts is the owner's own.

        Args:
            run_id: The run.
            owner: Who takes it, such as the name of a process.
            seconds: How long the lease lasts, at least 0.

        Returns:
            The lease, with a new epoch; None where someone else holds the run or is about to.

        Raises:
            NothingToResume: There is no such run.
        """
        ...

    def renew(self, lease: Lease, *, seconds: float) -> None:
        """Let a lease last for `seconds` from now. Raises `Fenced` where the run was taken over."""
        ...

    def release(self, lease: Lease) -> None:
        """End a lease: the run may be claimed, and this lease writes no more.

        Nothing happens where the run was taken over already.
        """
        ...

    def claimable(self) -> Sequence[str]:
        """Return the ids of the runs that nobody's lease lasts for, oldest first."""
        ...


class LogStore(Protocol):
    """Append-only logs by name, durable, that several processes write to.

    A writer reads a log, decides, and appends where the log has not grown meanwhile; so a decision
    about everything that is in a log holds, however many decide at once.
    """

    def logs(self) -> Sequence[str]:
        """Return the names of all logs that hold a record, sorted."""
        ...

    def read_log(self, log: str, *, start: int = 0) -> Sequence[Record]:
        """Return the records of a log from number `start` on; none where there is no such log."""
        ...

    def append_log(self, log: str, records: Sequence[Record], *, expect: int) -> int:
        """Append records in one transaction; on return they are durable.

        Args:
            log: The log's name.
            records: What to append.
            expect: How many records the log holds, as the writer knows it.

        Returns:
            The number of records in the log.

        Raises:
            Conflict: It holds another number; nothing was written.
        """
        ...


class BlobStore(Protocol):
    """Bytes by their SHA-256, durable."""

    def put(self, blocks: Iterable[bytes | memoryview]) -> str:
        """Store the concatenated blocks; return their digest in hexadecimal.

        On return the bytes are durable. Storing the same bytes again changes nothing.
        """
        ...

    def get(self, digest: str) -> memoryview:
        """Return the bytes. Raises `CorruptBlob` where they are absent or do not match."""
        ...

    def has(self, digest: str) -> bool:
        """Return whether the bytes are there."""
        ...

    def delete(self, digest: str) -> None:
        """Remove the bytes; no error where they are absent."""
        ...

    def digests(self) -> Sequence[str]:
        """Return all digests, sorted."""
        ...


class Observer(Protocol):
    """Sees every event and command of a run, in order."""

    def __call__(self, item: Any) -> None:
        """Take note of an event or command; must not change it and must not raise."""
        ...
