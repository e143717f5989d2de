"""Masks of a client and their removal by the server, chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from choral.core.errors import ChoralError
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import RingVector
from choral.crypto.secret import Secret
from choral.secagg.context import Context
from choral.secagg.ports import Sink, Source
from choral.secagg.refusals import Breach, Reason, check

_BLOCK: Final = 1 << 18
"""Elements of the sum that are packed at a time."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A mask and whether it is added."""

    mask: Mask
    sign: Literal[1, -1]


def self_mask(context: Context, h1: bytes, *, client: str, seed: Secret) -> Mask:
    """Return PRG(b) of a client."""
    key = derive_key(seed, purpose=Purpose.SELF_MASK, transcript=h1, ids=(client,))
    return Mask(Generator(context.encoding.generator), key, ring=context.encoding.ring)


def pair_mask(context: Context, h1: bytes, *, client: str, peer: str, shared: Secret) -> Signed:
    """Return PRG(s_uv) as `client` adds it: added where its id is the smaller one."""
    key = derive_key(shared, purpose=Purpose.PAIR_MASK, transcript=h1, ids=(client, peer))
    mask = Mask(Generator(context.encoding.generator), key, ring=context.encoding.ring)
    return Signed(mask, 1 if client < peer else -1)


def mask_into(context: Context, source: Source, sink: Sink, *, masks: Sequence[Signed]) -> bytes:
    """Mask a vector from its source into its spool; return the SHA-256 of the packed bytes.

    Guarantees: memory beyond source and sink is one buffer of the generator and an open cipher for
    each mask.

    Raises:
        Breach: `WRONG_VECTOR`: the source gave another number of elements.
    """
    ring, size = context.encoding.ring, context.encoding.size
    hasher, at = hashlib.sha256(), 0
    for chunk in source():
        ring.check(chunk)
        check(at + chunk.size <= size, Reason.WRONG_VECTOR, f"more than {size} elements")
        for each in masks:
            each.mask.add_into(chunk, start=at, sign=each.sign)
        hasher.update(ring.pack(chunk))
        sink.write(chunk)
        at += chunk.size
    check(at == size, Reason.WRONG_VECTOR, f"{at} elements, expected {size}")
    return hasher.digest()


class Spoiled(Exception):
    """A vector changed while it was added: the sum holds something that nobody sent."""


class Accumulator:
    """The ring sum of the vectors that came whole; its memory is one vector.

    Args:
        context: Of the attempt.
    """

    __slots__ = ("_ring", "_size", "_whole", "total")

    def __init__(self, context: Context) -> None:
        self._ring = context.encoding.ring
        self._size = context.encoding.size
        self._whole = True
        self.total: RingVector = self._ring.zeros(self._size)

    def add(self, chunks: Source, content: bytes) -> None:
        """Add a vector, once it has been read and is what was announced.

        Args:
            chunks: The vector, the same each time.
            content: SHA-256 of its packed bytes.

        Raises:
            Breach: `WRONG_VECTOR`; the sum is then as it was before.
            Spoiled: The second reading gave something else; the sum is then of no use.
        """
        try:
            found, checksum = self._read(chunks)
        except ChoralError as error:
            raise Breach(Reason.WRONG_VECTOR, error.message) from None
        check(found == content, Reason.WRONG_VECTOR, "the elements are not those announced")
        self._check_whole()
        self._whole = False  # until it is: an interrupt leaves a part of a vector in the sum
        try:
            added = self._add(chunks)
        except Exception as error:
            raise Spoiled from error
        self._whole = added == checksum
        self._check_whole()

    def _check_whole(self) -> None:
        if not self._whole:
            raise Spoiled

    def _read(self, chunks: Source) -> tuple[bytes, tuple[int, int]]:
        """Return the digest of the packed bytes, and number and checksum of the elements."""
        hasher, size, total = hashlib.sha256(), 0, 0
        for chunk in chunks():
            self._ring.check(chunk)
            total ^= _checksum(chunk, size)
            size += chunk.size
            check(size <= self._size, Reason.WRONG_VECTOR, f"more than {self._size} elements")
            hasher.update(self._ring.pack(chunk))
        check(size == self._size, Reason.WRONG_VECTOR, f"{size} elements, expected {self._size}")
        return hasher.digest(), (size, total)

    def _add(self, chunks: Source) -> tuple[int, int]:
        """Add the chunks; return number and checksum of their elements."""
        size, total = 0, 0
        for chunk in chunks():
            self._ring.add(self.total[size : size + chunk.size], chunk)
            total ^= _checksum(chunk, size)
            size += chunk.size
        return size, total

    def remove(self, mask: Mask, *, sign: Literal[1, -1]) -> None:
        """Take out a mask that was added with this sign.

        Raises:
            Spoiled: An earlier `add` did not come to its end.
        """
        self._check_whole()
        mask.add_into(self.total, start=0, sign=-1 if sign == 1 else 1)
        mask.erase()

    def digest(self) -> bytes:
        """Return the SHA-256 of the packed sum."""
        hasher = hashlib.sha256()
        for start in range(0, self.total.size, _BLOCK):
            hasher.update(self._ring.pack(self.total[start : start + _BLOCK]))
        return hasher.digest()


def _checksum(chunk: RingVector, start: int) -> int:
    """Return a sum of a chunk's memory that depends on where it starts; finds faults, not forgers.

    The digest was checked before: this is for a store that gives other bytes the second time.
    """
    whole = chunk.size - chunk.size % 4  # elements of 2, 4 or 8 bytes in words of 8
    words = np.ascontiguousarray(chunk[:whole]).view(np.uint64)
    rest = int(chunk[whole:].sum(dtype=np.uint64))
    return (int(words.sum()) + rest + start) * (2 * start + 1) & (2**64 - 1)
