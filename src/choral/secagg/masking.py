"""Masks of a client and their removal by the server, chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

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
    """The sum holds something that nobody sent: a wrong vector, or a part of one."""


class Accumulator:
    """The ring sum of the vectors that came whole; its memory is one vector.

    Args:
        context: Of the attempt.

    Attributes:
        count: How many vectors are in it.
        total: Their sum.
    """

    __slots__ = ("_ring", "_size", "_whole", "count", "total")

    def __init__(self, context: Context) -> None:
        self._ring = context.encoding.ring
        self._size = context.encoding.size
        self._whole = True
        self.count = 0
        self.total: RingVector = self._ring.zeros(self._size)

    def add(self, chunks: Source, content: bytes) -> None:
        """Add a vector that is what was announced: what is hashed is what is added.

        It is read once. One that turns out to be something else is read again and taken out.

        Args:
            chunks: The vector, the same each time.
            content: SHA-256 of its packed bytes.

        Raises:
            Breach: `WRONG_VECTOR`; the sum is then as it was before.
            Spoiled: It had to be taken out, and the second reading gave something else; or an
                earlier one was spoiled or interrupted. The sum is then of no use.
        """
        self._check_whole()
        self._whole = False  # until it is: an interrupt leaves a part of a vector in the sum
        hasher, size = hashlib.sha256(), 0
        try:
            for chunk in chunks():
                packed, end = self._packed(chunk, size)
                hasher.update(packed)
                self._ring.add(self.total[size:end], chunk)
                size = end
            check(size == self._size, Reason.WRONG_VECTOR, f"{size} elements of {self._size}")
            announced = hasher.digest() == content
            check(announced, Reason.WRONG_VECTOR, "the elements are not those announced")
        except Exception as error:
            self._take_out(chunks, size, hasher.digest())
            if isinstance(error, ChoralError) and not isinstance(error, Breach):
                raise Breach(Reason.WRONG_VECTOR, error.message) from None
            raise
        self.count += 1
        self._whole = True

    def _packed(self, chunk: RingVector, start: int) -> tuple[memoryview, int]:
        """Return a chunk's packed bytes and where it ends in the vector."""
        end = start + chunk.size
        self._ring.check(chunk)
        check(end <= self._size, Reason.WRONG_VECTOR, f"more than {self._size} elements")
        return self._ring.pack(chunk), end

    def _take_out(self, chunks: Source, size: int, content: bytes) -> None:
        """Take out the first elements of a vector, whose digest is known."""
        hasher, start = hashlib.sha256(), 0
        try:
            for chunk in chunks() if size else ():
                packed, end = self._packed(chunk, start)
                hasher.update(packed)
                self._ring.subtract(self.total[start:end], chunk)
                start = end
                if start >= size:
                    break
        except Exception as error:
            raise Spoiled from error
        self._whole = start == size and hasher.digest() == content
        self._check_whole()

    def _check_whole(self) -> None:
        if not self._whole:
            raise Spoiled

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
