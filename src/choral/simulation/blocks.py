"""Shared memory that several processes map."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import numpy.typing as npt

from choral.core.errors import RunFailed


class _Memory(SharedMemory):
    """Shared memory that is really there, and that arrays over it may outlive.

    Without `reserve` a block on a full /dev/shm is found out by a bus error, when it is written.
    """

    _fd: int

    def reserve(self) -> None:
        """Raise `OSError` unless the whole block fits."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, self.size)

    def __del__(self) -> None:
        with suppress(BufferError, OSError):
            self.close()


class Block:
    """A block of shared memory.

    Args:
        size: Bytes to make; None attaches to the block `name`.
        name: Name of an existing block.
    """

    def __init__(self, size: int | None = None, *, name: str | None = None) -> None:
        try:
            self._memory = _Memory(name, create=size is not None, size=max(1, size or 0))
            if size is not None:
                self._memory.reserve()
        except OSError as error:
            self._discard()
            raise RunFailed(
                f"no shared memory of {size} bytes: {error}",
                hint="a container needs a larger /dev/shm; or use engine `inline`",
            ) from None
        self._owned = size is not None

    def _discard(self) -> None:
        memory: _Memory | None = getattr(self, "_memory", None)
        if memory is not None:
            memory.close()
            memory.unlink()

    @property
    def name(self) -> str:
        """Name under which another process attaches."""
        return self._memory.name

    @property
    def view(self) -> memoryview:
        """The bytes; perhaps more than were asked for."""
        view = self._memory.buf
        if view is None:
            raise RunFailed("shared memory was used after it was closed")
        return view

    def payload(self, slot: int, size_bytes: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the `slot`-th vector of `size_bytes` bytes, mapped."""
        return np.frombuffer(self.view, dtype, size_bytes // dtype.itemsize, slot * size_bytes)

    def close(self) -> None:
        """Unmap the block, and remove it where this process made it."""
        # Arrays over the block may live on in a task's caches; the system unmaps them at the end.
        with suppress(BufferError):
            self._memory.close()
        if self._owned:
            with suppress(FileNotFoundError):
                self._memory.unlink()
