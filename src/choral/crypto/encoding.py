"""One byte string per list of fields, so that transcripts can be hashed and signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

LENGTH_SIZE: Final = 8
"""Bytes of a field's length, little endian."""

DIGEST_SIZE: Final = 32
"""Bytes of a SHA-256 digest."""

_SHORT: Final = 1024
_LENGTHS: Final = tuple(i.to_bytes(LENGTH_SIZE, "little") for i in range(_SHORT))
"""What most lengths look like."""


def length(size: int) -> bytes:
    """Return the bytes that stand before a field of so many bytes."""
    return _LENGTHS[size] if size < _SHORT else size.to_bytes(LENGTH_SIZE, "little")


def framed(fields: Iterable[bytes]) -> bytes:
    """Return fields as bytes, each after its length; `frame` is this with a label in front."""
    parts: list[bytes] = []
    for field in fields:
        size = len(field)  # `length` without its call
        parts.append(_LENGTHS[size] if size < _SHORT else size.to_bytes(LENGTH_SIZE, "little"))
        parts.append(field)
    return b"".join(parts)


def frame(label: str, *fields: bytes) -> bytes:
    """Return a label and fields as bytes, each after its length.

    Guarantees: two different lists never give the same bytes, and none is the start of another
    with the same number of fields. The label keeps the uses of one hash or key apart.

    Args:
        label: What the bytes are for; a constant of the protocol.
        fields: Byte strings of any length, in the order that the protocol fixes.

    >>> frame("a", b"bc") == frame("a", b"b", b"c")
    False
    >>> frame("a", b"").hex()
    '0100000000000000610000000000000000'
    """
    return framed((label.encode(), *fields))


def digest(label: str, *fields: bytes) -> bytes:
    """Return the SHA-256 of `frame(label, *fields)`, 32 bytes."""
    return hashlib.sha256(frame(label, *fields)).digest()
