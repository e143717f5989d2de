"""The outside world of a client: a durable memory, and where its vector comes from and goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from choral.crypto.ring import RingVector

Source: TypeAlias = Callable[[], Iterable[RingVector]]
"""Gives a vector's chunks in order. A client's is called once in an attempt and its chunks are
masked in place, so that no second copy is needed: it must hand out memory that nobody reads as the
vector afterwards, and an attempt must not get what another one has masked. A server's is called
twice and gives the same bytes both times; nothing is written to them."""


class Sink(Protocol):
    """The private spool of a client's masked vector: memory or a file, never the network.

    The bytes leave only once the machine asks for it, after their digest is durable.
    """

    def write(self, chunk: RingVector) -> None:
        """Append a chunk; it is the sink's from now on until the next one is written."""
        ...


class OnceStore(Protocol):
    """What a client must never do twice, durable: on return of each method it is on disk."""

    def claim(self, slot: str, answer: bytes) -> bytes:
        """Store `answer` in an empty slot; return what the slot holds now."""
        ...

    def read(self, slot: str) -> bytes | None:
        """Return what a slot holds, None where it is empty."""
        ...

    def advance(self, counter: str, value: int) -> bool:
        """Raise a counter to `value`; return False, changing nothing, where it is there already."""
        ...

    def latest(self, counter: str) -> int | None:
        """Return where a counter is, None where it was never raised."""
        ...


class MemoryOnce:
    """A `OnceStore` that lives as long as the process: for simulation and tests."""

    def __init__(self) -> None:
        self._slots: dict[str, bytes] = {}
        self._counters: dict[str, int] = {}

    def claim(self, slot: str, answer: bytes) -> bytes:
        """Store `answer` in an empty slot; return what the slot holds now."""
        return self._slots.setdefault(slot, answer)

    def read(self, slot: str) -> bytes | None:
        """Return what a slot holds."""
        return self._slots.get(slot)

    def advance(self, counter: str, value: int) -> bool:
        """Raise a counter."""
        if value <= self._counters.get(counter, -1):
            return False
        self._counters[counter] = value
        return True

    def latest(self, counter: str) -> int | None:
        """Return where a counter is."""
        return self._counters.get(counter)
