"""Stores that forget when the process ends: for simulations without an output folder, and tests."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from choral.core.errors import Conflict, CorruptBlob, Fenced, NothingToResume, RunExists
from choral.core.ports import Lease, Record
from choral.stores.leases import check_seconds


@dataclass(frozen=True, slots=True)
class _Term:
    """Who may drive a run, and until when."""

    owner: str | None
    until: float


_OVER = _Term(None, -math.inf)


class MemoryRunStore:
    """Runs in a dictionary.

    Args:
        now: Seconds since some start, for leases.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._headers: dict[str, dict[str, Any]] = {}
        self._logs: dict[str, list[Record]] = {}
        self._epochs: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._terms: dict[str, _Term] = {}

    def create(self, run_id: str, header: dict[str, Any]) -> None:
        """Make a run."""
        with self._lock:
            if run_id in self._headers:
                raise RunExists(f"run `{run_id}` exists")
            self._headers[run_id] = header
            self._logs[run_id] = []
            self._epochs[run_id] = self._counts[run_id] = 0
            self._terms[run_id] = _OVER

    def header(self, run_id: str) -> dict[str, Any]:
        """Return a run's header."""
        if run_id not in self._headers:
            raise NothingToResume(f"no run `{run_id}`")
        return self._headers[run_id]

    def runs(self) -> Sequence[str]:
        """Return the ids of all runs, oldest first."""
        return tuple(self._headers)

    def acquire(self, run_id: str) -> Lease:
        """Take a run over."""
        with self._lock:
            return self._take(run_id, _OVER)

    def _take(self, run_id: str, term: _Term) -> Lease:
        self.header(run_id)
        self._epochs[run_id] += 1
        self._terms[run_id] = term
        return Lease(run_id, self._epochs[run_id])

    def append(
        self,
        lease: Lease,
        records: Iterable[Record],
        *,
        expect: int | None = None,
        forget: str | None = None,
    ) -> int:
        """Append records."""
        new = list(records)
        with self._lock:
            self._check(lease)
            count, log = self._counts[lease.run_id], self._logs[lease.run_id]
            if expect not in (None, count):
                raise Conflict(f"run `{lease.run_id}` holds {count} records, not {expect}")
            if new:
                log[:] = [record for record in log if record.kind != forget] + new
            self._counts[lease.run_id] += len(new)
            return self._counts[lease.run_id]

    def _check(self, lease: Lease) -> None:
        self.header(lease.run_id)
        if self._epochs[lease.run_id] != lease.epoch:
            raise Fenced(f"run `{lease.run_id}` was taken over by another process")

    def read(self, run_id: str) -> Iterator[Record]:
        """Return the records of a run."""
        self.header(run_id)
        return iter(tuple(self._logs[run_id]))

    def claim(self, run_id: str, *, owner: str, seconds: float) -> Lease | None:
        """Take a run where nobody else's lease lasts."""
        with self._lock:
            self.header(run_id)
            term = self._terms[run_id]
            if term.until > self._now() and term.owner != owner:
                return None
            return self._take(run_id, _Term(owner, self._now() + check_seconds(seconds)))

    def renew(self, lease: Lease, *, seconds: float) -> None:
        """Let a lease last longer."""
        with self._lock:
            self._check(lease)
            owner = self._terms[lease.run_id].owner
            self._terms[lease.run_id] = _Term(owner, self._now() + check_seconds(seconds))

    def release(self, lease: Lease) -> None:
        """End a lease."""
        with self._lock, suppress(Fenced):
            self._check(lease)
            self._take(lease.run_id, _OVER)

    def claimable(self) -> Sequence[str]:
        """Return the runs that nobody's lease lasts for, oldest first."""
        with self._lock:
            now = self._now()
            return tuple(run_id for run_id, term in self._terms.items() if term.until <= now)

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryLogStore:
    """Logs in a dictionary."""

    def __init__(self) -> None:
        self._logs: dict[str, list[Record]] = {}
        self._lock = threading.Lock()

    def logs(self) -> Sequence[str]:
        """Return the names of all logs that hold a record, sorted."""
        return tuple(sorted(self._logs))

    def read_log(self, log: str, *, start: int = 0) -> Sequence[Record]:
        """Return the records of a log."""
        return tuple(self._logs.get(log, ())[start:])

    def append_log(self, log: str, records: Sequence[Record], *, expect: int) -> int:
        """Append records where the log holds as many as the writer expects."""
        with self._lock:
            held = len(self._logs.get(log, ()))
            if held != expect:
                raise Conflict(f"log `{log}` holds {held} records, not {expect}")
            if records:
                self._logs.setdefault(log, []).extend(records)
            return held + len(records)


class MemoryBlobStore:
    """Bytes in a dictionary."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, blocks: Iterable[bytes | memoryview]) -> str:
        """Store the concatenated blocks."""
        data = b"".join(blocks)
        digest = hashlib.sha256(data).hexdigest()
        self._blobs.setdefault(digest, data)
        return digest

    def get(self, digest: str) -> memoryview:
        """Return the bytes."""
        if digest not in self._blobs:
            raise CorruptBlob(f"blob {digest[:12]}… is not there")
        return memoryview(self._blobs[digest])

    def has(self, digest: str) -> bool:
        """Return whether the bytes are there."""
        return digest in self._blobs

    def delete(self, digest: str) -> None:
        """Remove the bytes."""
        self._blobs.pop(digest, None)

    def digests(self) -> Sequence[str]:
        """Return all digests, sorted."""
        return tuple(sorted(self._blobs))
