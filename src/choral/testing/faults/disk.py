"""Stores with points of no loss: what was written and not synced may be lost in a crash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from choral.core.errors import (
    Conflict,
    CorruptBlob,
    Fenced,
    NothingToResume,
    RunExists,
    StoreError,
)
from choral.core.ports import Lease, Record
from choral.testing.faults.draws import Draws

Transaction = tuple[list[Record], str | None]


class Disk:
    """What outlives a process: one run's log, and blobs.

    Args:
        draws: How much of what was not synced a crash leaves.
        stored: Told of records once they are durable.

    Attributes:
        epoch: Who may write to the log.
        log: The durable log.
        history: Every record that was ever durable, those that were forgotten included.
    """

    def __init__(self, draws: Draws, stored: Callable[[Sequence[Record]], None]) -> None:
        self.epoch = 0
        self.log: list[Record] = []
        self.history: list[Record] = []
        self._draws = draws
        self._stored = stored
        self._loose: list[Transaction] = []
        self._blobs: dict[str, bytes] = {}
        self._loose_blobs: dict[str, bytes] = {}

    def crash(self) -> None:
        """Lose what was not synced, but for a prefix of it."""
        if self._loose:
            self._settle(self._loose[: self._draws.below(len(self._loose) + 1)])
            self._loose = []
        for digest, data in self._loose_blobs.items():
            left = self._draws.below(4)
            if left:
                self._blobs[digest] = data if left == 1 else data[: self._draws.below(len(data))]
        self._loose_blobs = {}

    # --- the log ----------------------------------------------------------------------------------

    def write(self, records: list[Record], forget: str | None) -> None:
        """Write a transaction; it is not durable yet."""
        self._loose.append((records, forget))

    def sync(self) -> None:
        """Make every transaction durable."""
        self._settle(self._loose)
        self._loose = []

    def _settle(self, transactions: list[Transaction]) -> None:
        for records, forget in transactions:
            self.log = apply(self.log, records, forget)
            self.history += records
            self._stored(records)

    def records(self) -> list[Record]:
        """Return the log as a process sees it, durable or not."""
        log = self.log
        for records, forget in self._loose:
            log = apply(log, records, forget)
        return log

    # --- blobs ------------------------------------------------------------------------------------

    def write_blob(self, data: bytes) -> str:
        """Write a blob; it is not durable yet."""
        digest = hashlib.sha256(data).hexdigest()
        if self._blobs.get(digest) != data:
            self._loose_blobs[digest] = data
        return digest

    def sync_blob(self, digest: str) -> None:
        """Make a blob durable."""
        data = self._loose_blobs.pop(digest, None)
        if data is not None:
            self._blobs[digest] = data

    def blob(self, digest: str) -> bytes | None:
        """Return a blob as a process sees it."""
        return self._loose_blobs.get(digest, self._blobs.get(digest))

    def whole(self, digest: str) -> bool:
        """Return whether a crash can no longer lose a blob."""
        data = self._blobs.get(digest)
        return data is not None and hashlib.sha256(data).hexdigest() == digest

    def remove(self, digest: str) -> None:
        """Remove a blob."""
        self._blobs.pop(digest, None)
        self._loose_blobs.pop(digest, None)

    def digests(self) -> list[str]:
        """Return the digests of all blobs."""
        return sorted({*self._blobs, *self._loose_blobs})


def apply(log: list[Record], records: list[Record], forget: str | None) -> list[Record]:
    """Return a log after a transaction."""
    kept = log if forget is None else [r for r in log if r.kind != forget]
    return [*kept, *records]


class DiskRunStore:
    """A `RunStore` of one run on a disk.

    Args:
        disk: The disk.
        effect: Called before and after whatever others could see; a crash comes from there.
    """

    def __init__(self, disk: Disk, effect: Callable[[str], None]) -> None:
        self._disk = disk
        self._effect = effect

    def create(self, run_id: str, header: dict[str, Any]) -> None:
        """Refuse: the run is there."""
        raise RunExists(f"run `{run_id}` exists")

    def header(self, run_id: str) -> dict[str, Any]:
        """Refuse: nothing here asks for it."""
        raise NothingToResume(f"no header of `{run_id}`")

    def runs(self) -> Sequence[str]:
        """Return nothing: nothing here asks for it."""
        return ()

    def acquire(self, run_id: str) -> Lease:
        """Take the run over."""
        self._disk.epoch += 1
        return Lease(run_id, self._disk.epoch)

    def append(
        self,
        lease: Lease,
        records: Iterable[Record],
        *,
        expect: int | None = None,
        forget: str | None = None,
    ) -> int:
        """Append records; they are durable on return."""
        self._effect("append")
        self.check(lease)
        if expect not in (None, len(self._disk.history)):
            raise Conflict(f"run `{lease.run_id}` holds another number of records than {expect}")
        self._disk.write(list(records), forget)
        self._effect("append: written")
        self.sync()
        self._effect("append: durable")
        return len(self._disk.history)

    def check(self, lease: Lease) -> None:
        """Refuse an older lease."""
        if lease.epoch != self._disk.epoch:
            raise Fenced(f"run `{lease.run_id}` was taken over by another process")

    def sync(self) -> None:
        """Make the log durable."""
        self._disk.sync()

    def read(self, run_id: str) -> Iterator[Record]:
        """Return the records."""
        return iter(self._disk.records())

    def close(self) -> None:
        """Nothing to let go of."""


class DiskBlobStore:
    """A `BlobStore` on a disk.

    Args:
        disk: The disk.
        effect: Called before and after whatever others could see.
    """

    def __init__(self, disk: Disk, effect: Callable[[str], None]) -> None:
        self._disk = disk
        self._effect = effect

    def put(self, blocks: Iterable[bytes | memoryview]) -> str:
        """Store the concatenated blocks."""
        data = b"".join(blocks)
        self._effect("blob")
        digest = self._disk.write_blob(data)
        self._effect("blob: written")
        self.sync(digest)
        self._effect("blob: durable")
        return digest

    def sync(self, digest: str) -> None:
        """Make a blob durable."""
        self._disk.sync_blob(digest)

    def get(self, digest: str) -> memoryview:
        """Return the bytes."""
        data = self._disk.blob(digest)
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            raise CorruptBlob(f"blob {digest[:12]}… is not there")
        return memoryview(data)

    def has(self, digest: str) -> bool:
        """Return whether the bytes are there."""
        return self._disk.blob(digest) is not None

    def delete(self, digest: str) -> None:
        """Remove the bytes."""
        self._effect("delete")
        self._disk.remove(digest)

    def digests(self) -> Sequence[str]:
        """Return all digests."""
        return self._disk.digests()


class Folder:
    """A folder in memory, as far as a `SpoolFile` and `Kept` use one; a crash empties it."""

    __slots__ = ("files",)

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def __truediv__(self, name: str) -> File:
        return File(self, name)


class File:
    """A file of a `Folder`."""

    __slots__ = ("name", "parent")

    def __init__(self, folder: Folder, name: str) -> None:
        self.parent = folder
        self.name = name

    def open(self, mode: str, *, buffering: int = -1) -> io.BytesIO:
        """Open the file to be read or written."""
        if mode == "rb":
            if self.name not in self.parent.files:
                raise StoreError(f"{self.name} is gone")
            return io.BytesIO(bytes(self.parent.files[self.name]))
        return _Writer(self.parent.files.setdefault(self.name, bytearray()), fresh=mode == "wb")

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Make the file of some bytes."""
        self.parent.files[self.name] = bytearray(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        self.parent.files.pop(self.name, None)


class _Writer(io.BytesIO):
    """Bytes that are a file's again once they are closed."""

    def __init__(self, file: bytearray, *, fresh: bool) -> None:
        super().__init__(b"" if fresh else bytes(file))
        self._file = file

    def close(self) -> None:
        if not self.closed:
            self._file[:] = self.getvalue()
        super().close()
