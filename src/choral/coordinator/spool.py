"""An upload on its way: bytes in a file, so that memory does not grow with what clients send."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from choral.core.errors import Stale, StoreError, Truncated

BLOCK_BYTES: Final = 1 << 20


class SpoolFile:
    """The bytes of one upload: a `wire.transfer.Sink`, and their reader once they are whole.

    Args:
        path: The file; made when the first byte comes.

    Attributes:
        path: The file.
        old: Whether some bytes were written by a process before this one. After a loss of power
            they need not be what was sent.
    """

    __slots__ = ("_closed", "_held", "_kept", "_lock", "_place", "old", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = 0
        self._lock = threading.Lock()
        self._place = threading.Lock()
        self._closed = False
        self._kept = False
        self.old = False

    @classmethod
    def of(cls, path: Path, size: int) -> SpoolFile:
        """Return the whole upload that a file holds, which is somebody else's to remove."""
        spool = cls(path)
        spool._held, spool._closed, spool._kept = size, True, True
        return spool

    @classmethod
    def left(cls, path: Path) -> SpoolFile:
        """Return the upload in a file of a process before this one; it may go on."""
        spool = cls(path)
        spool._held, spool.old = path.stat().st_size, True
        return spool

    def move(self, adopt: Callable[[Path], Path]) -> None:
        """Let others look after the bytes, which are whole; who reads them meanwhile waits.

        Args:
            adopt: Takes the file over; returns its new path.

        Raises:
            StoreError: They cannot be stored now.
        """
        with self._place:
            path = adopt(self.path)
            with self._lock:
                self.path, self._closed, self._kept = path, True, True

    def held(self) -> int:
        """Return the number of bytes held, from the first."""
        return self._held

    def is_here(self) -> bool:
        """Return whether the bytes can be read where they were written."""
        return self.path.exists()

    def prefix(self) -> Iterable[bytes]:
        """Return the bytes held, in blocks."""
        return self.blocks(0, self._held)

    def write(self, offset: int, data: memoryview) -> None:
        """Hold more bytes.

        Raises:
            Stale: Nobody wants them any more.
            StoreError: They cannot be written, such as on a full disk.
        """
        with self._lock:
            if self._closed:
                raise Stale("the work of this upload is over")
            try:
                with self.path.open("r+b" if self._held else "wb", buffering=0) as file:
                    file.seek(offset)
                    while data.nbytes:
                        written = file.write(data)
                        offset, data = offset + written, data[written:]
            except OSError as error:
                raise StoreError(
                    f"cannot write to {self.path.parent}: {error.strerror}", hint="make room"
                ) from None
            self._held = max(self._held, offset)  # a stream that was cut may be late

    def discard(self) -> None:
        """Let go of all bytes; others may come."""
        with self._lock:
            if self._kept:
                return
            self._held = 0
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all bytes for good; a thread that still has some writes them nowhere."""
        self.discard()
        self._closed = True
        self.discard()

    def blocks(self, start: int, stop: int, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop`, in blocks of at most `size`."""
        with self._place:
            file = self.path.open("rb", buffering=0)
        with file:
            file.seek(start)
            while start < stop:
                block = file.read(min(size, stop - start))
                if not block:
                    raise Truncated(f"{self.path.name} ends at byte {start}, expected {stop}")
                start += len(block)
                yield block

    def tail(self, start: int) -> bytes:
        """Return the bytes from `start` on."""
        return b"".join(self.blocks(start, self._held))

    def numbers(
        self, count: int, dtype: str, *, size: int = BLOCK_BYTES
    ) -> Iterator[npt.NDArray[np.generic]]:
        """Yield the first `count` numbers of a little-endian type, in blocks."""
        for block in self.packed(count, np.dtype(dtype).itemsize, size=size):
            yield np.frombuffer(block, dtype)

    def packed(self, count: int, width: int, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the first `count` elements of `width` bytes, in blocks of whole ones."""
        rest = b""
        for block in self.blocks(0, count * width, size=size - size % width):
            rest += block
            whole = len(rest) - len(rest) % width
            if whole:
                yield rest[:whole]
                rest = rest[whole:]
