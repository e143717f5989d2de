"""Draws that follow from a seed and a purpose, and cost little."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_WORDS: Final = struct.Struct("<32Q")
_RANGE: Final = float(1 << 64)


class Draws:
    """A stream of draws; also a `Rand`, for tests alone: everyone can predict it.

    Each purpose has its own stream, so that another fault does not change what is drawn elsewhere.

    Args:
        names: Seed and purpose.

    >>> Draws(1, "wire").below(10) == Draws(1, "wire").below(10)
    True
    """

    __slots__ = ("_count", "_key", "_words")

    def __init__(self, *names: int | str) -> None:
        self._key = hashlib.blake2b(repr(names).encode(), digest_size=32).digest()
        self._count = 0
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            self._words = list(_WORDS.unpack(self._next(_WORDS.size)))
        return self._words.pop()

    def _next(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_128(self._key + self._count.to_bytes(8, "little")).digest(size)

    def real(self) -> float:
        """Return a number in [0, 1)."""
        return self._word() / _RANGE

    def below(self, count: int) -> int:
        """Return a whole number in [0, count)."""
        return self._word() % count

    def between(self, least: float, most: float) -> float:
        """Return a number in [least, most)."""
        return least + (most - least) * self.real()

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.real() < probability

    def one(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.below(len(choices))]

    def token(self, size: int) -> bytes:
        """Return the next `size` bytes of the stream."""
        return self._next(size)
