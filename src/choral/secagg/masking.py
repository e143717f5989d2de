"""Masks of a client and their removal by the server, chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from choral.core.errors import ChoralError
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import RingVector
from choral.crypto.secret import Secret
from choral.secagg.context import Context
from choral.secagg.ports import Sink, Source
from choral.secagg.refusals import Breach, Reason, check


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


class Accumulator:
    """The ring sum of the vectors that came whole; its memory is one vector.

    Args:
        context: Of the attempt.
    """

    __slots__ = ("_added", "_ring", "_size", "total")

    def __init__(self, context: Context) -> None:
        self._ring = context.encoding.ring
        self._size = context.encoding.size
        self._added = 0
        self.total: RingVector = self._ring.zeros(self._size)

    def add(self, chunks: Source, content: bytes) -> None:
        """Add a vector; take it out again where it is not what was announced.

        Args:
            chunks: The vector, the same each time.
            content: SHA-256 of its packed bytes.

        Raises:
            Breach: `WRONG_VECTOR`; the sum is then as it was before.
        """
        try:
            found = self._add(chunks)
        except ChoralError as error:
            self._take_out(chunks)
            raise Breach(Reason.WRONG_VECTOR, error.message) from None
        if self._added != self._size or found != content:
            self._take_out(chunks)
            raise Breach(Reason.WRONG_VECTOR, "the elements are not those announced")

    def _add(self, chunks: Source) -> bytes:
        """Add chunks, counting the elements, and return the digest of the packed bytes."""
        hasher, self._added = hashlib.sha256(), 0
        for chunk in chunks():
            end = self._added + chunk.size
            check(end <= self._size, Reason.WRONG_VECTOR, f"more than {self._size} elements")
            hasher.update(self._ring.pack(chunk))
            self._ring.add(self.total[self._added : end], chunk)
            self._added = end
        return hasher.digest()

    def _take_out(self, chunks: Source) -> None:
        """Subtract the elements that were added."""
        at = 0
        for chunk in chunks():
            if at == self._added:
                break
            self._ring.subtract(self.total[at : at + chunk.size], chunk)
            at += chunk.size

    def remove(self, mask: Mask, *, sign: Literal[1, -1]) -> None:
        """Take out a mask that was added with this sign."""
        mask.add_into(self.total, start=0, sign=-1 if sign == 1 else 1)
        mask.erase()

    def digest(self) -> bytes:
        """Return the SHA-256 of the packed sum."""
        return hashlib.sha256(self._ring.pack(self.total)).digest()
