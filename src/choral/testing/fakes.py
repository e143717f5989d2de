"""Fakes of the ports that tests can steer."""

from __future__ import annotations

from choral.core.keys import Key


class VirtualClock:
    """A clock that moves when it is told to.

    Args:
        wall: Seconds since 1970 at the start.

    >>> clock = VirtualClock()
    >>> clock.advance(2.5)
    >>> clock.monotonic()
    2.5
    """

    def __init__(self, wall: float = 0.0) -> None:
        self._seconds = 0.0
        self._wall = wall

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self._seconds

    def wall(self) -> float:
        """Return seconds since 1970."""
        return self._wall + self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: `seconds` is below 0.
        """
        if seconds < 0:
            raise ValueError(f"{seconds} s: time does not go back")
        self._seconds += seconds


class SeededRand:
    """A `Rand` that repeats itself. For tests alone: everyone can predict it."""

    def __init__(self, seed: int) -> None:
        self._key = Key.root(seed)
        self._count = 0

    def token(self, size: int) -> bytes:
        """Return the next `size` bytes of the sequence."""
        self._count += 1
        return self._key.fold("token", self._count).rng().bytes(size)
