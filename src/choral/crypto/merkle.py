"""A root for an ordered list, and short proofs that a leaf is in its place.

Source: RFC 6962, section 2.1 (tree, `0x00` before leaves and `0x01` before nodes) and RFC 9162,
section 2.1.3.2 (verification). An odd node at the end of a level moves up unchanged.

A root alone does not say how many leaves there are: whoever signs or hashes a root puts the count
beside it, and a verifier takes the count from there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from choral.core.errors import ConfigError, Refused
from choral.crypto.encoding import DIGEST_SIZE

LEAF_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"


def _leaf(value: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(LEAF_PREFIX + value).digest()


def _node(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


class Tree:
    """A Merkle tree over leaves in a fixed order.

    Edge case: the root of no leaves is the SHA-256 of the empty string.

    Args:
        leaves: Byte strings of any length.

    >>> Tree([]).root.hex()[:8]
    'e3b0c442'
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        sha256 = hashlib.sha256
        level = [sha256(LEAF_PREFIX + value).digest() for value in leaves]
        self._levels = [level]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            above = [sha256(NODE_PREFIX + left + right).digest() for left, right in pairs]
            level = above + level[len(above) * 2 :]
            self._levels.append(level)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """32 bytes that stand for all leaves and their order."""
        return self._levels[-1][0] if self.size else hashlib.sha256().digest()

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Return the hashes beside the path from a leaf to the root, lowest first.

        Raises:
            ConfigError: There is no such leaf.
        """
        if not 0 <= index < self.size:
            raise ConfigError(f"leaf {index} of {self.size}: expected 0 to {self.size - 1}")
        path = []
        for level in self._levels[:-1]:
            beside = index ^ 1
            if beside < len(level):
                path.append(level[beside])
            index >>= 1
        return tuple(path)

    def proofs(self) -> list[tuple[bytes, ...]]:
        """Return the proof of every leaf, in order: they share their upper parts."""
        found: list[tuple[bytes, ...]] = [()]
        for level in reversed(self._levels[:-1]):
            last = len(level) - 1
            found = [
                (level[i ^ 1], *found[i >> 1]) if i ^ 1 <= last else found[i >> 1]
                for i in range(len(level))
            ]
        return found[: self.size]


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` is at `index` among `size` leaves under `root`.

    Args:
        leaf: The leaf itself, not its hash.
        index: Its place, from 0.
        size: Number of leaves, from the same signed statement as the root.
        proof: What `Tree.proof` gave.
        root: 32 bytes.

    Raises:
        Refused: It is not, or the proof has another length than the place asks for.
    """
    if not 0 <= index < size:
        raise Refused(f"inclusion proof for leaf {index} of {size}: there is no such leaf")
    if any(len(beside) != DIGEST_SIZE for beside in proof):
        raise Refused(f"inclusion proof with something else than hashes of {DIGEST_SIZE} bytes")
    place, last, found = index, size - 1, _leaf(leaf)
    for beside in proof:
        if last == 0:
            raise Refused(f"inclusion proof of {len(proof)} hashes is too long for {size} leaves")
        if place & 1 or place == last:
            found = _node(beside, found)
            while place and not place & 1:  # levels where the odd node moved up
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, beside)
        place, last = place >> 1, last >> 1
    if last or not hmac.compare_digest(found, root):
        raise Refused(f"inclusion proof for leaf {index} of {size} does not lead to the root")
