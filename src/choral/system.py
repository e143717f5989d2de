"""The machine's time and randomness."""

from __future__ import annotations

import os
import time


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.perf_counter()

    def wall(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()


class SystemRand:
    """Secret randomness of the operating system."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody can predict."""
        return os.urandom(size)
