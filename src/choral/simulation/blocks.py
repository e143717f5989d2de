"""Shared memory that several processes map."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import numpy.typing as npt

from choral.core.errors import RunFailed


class _Memory(SharedMemory):
    """Shared memory that does not complain when arrays over it outlive it: the system unmaps it."""

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
        except OSError as error:
            raise RunFailed(
                f"no shared memory of {size} bytes: {error}",
                hint="a container needs a larger /dev/shm; or use engine `inline`",
            ) from None
        self._owned = size is not None

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

    def vector(self, slot: int, size: int) -> npt.NDArray[np.int32]:
        """Return the `slot`-th int32 vector of `size` elements, mapped."""
        return np.frombuffer(self.view, np.int32, size, slot * 4 * size)

    def close(self) -> None:
        """Unmap the block, and remove it where this process made it."""
        # Arrays over the block may live on in a task's caches; the system unmaps them at the end.
        with suppress(BufferError):
            self._memory.close()
        if self._owned:
            with suppress(FileNotFoundError):
                self._memory.unlink()
