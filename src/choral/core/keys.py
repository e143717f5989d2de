"""Named random keys.

Every draw in a run has a name: the seed of the run and a path such as (round 3, client "a",
"train"). The same name gives the same stream on every engine and in every order, because a key is
a value: folding never changes the key it starts from. The idea is JAX's splittable keys; the
derivation is a hash, so that names are words and not positions.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Part: TypeAlias = str | int
"""One step of a key's name."""


@dataclass(frozen=True, slots=True)
class Key:
    """A point in the tree of random streams.

    Reproducible, not secret: for noise and keys that protect people use the `Rand` port.

    Attributes:
        seed: The run's seed, 0 to 2^64 - 1, that this key descends from.
        state: 32 bytes that stand for the path.
    """

    seed: int
    state: bytes

    @staticmethod
    def root(seed: int) -> Key:
        """Return the key of a run.

        Raises:
            ValueError: The seed is not in 0 to 2^64 - 1.
            TypeError: It is no whole number.
        """
        seed = operator.index(seed)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed}: expected 0 to 2^64 - 1")
        return Key(seed, hashlib.sha256(b"choral key v1" + seed.to_bytes(8, "little")).digest())

    @staticmethod
    def of_state(state: str) -> Key:
        """Return the key that has a state, such as one that was sent; its seed is not known.

        Args:
            state: 64 hexadecimal digits, from `state.hex()`.

        Raises:
            ValueError: They are not.
        """
        raw = bytes.fromhex(state)
        if len(raw) != 32:
            raise ValueError(f"a key's state of {len(raw)} bytes, expected 32")
        return Key(0, raw)

    def fold(self, *parts: Part) -> Key:
        """Return the key of a named child; words and numbers never collide.

        Raises:
            TypeError: A part that is neither a word nor a whole number.

        >>> root = Key.root(7)
        >>> root.fold(1, "a") == root.fold(1).fold("a")
        True
        >>> root.fold("1") == root.fold(1)
        False
        """
        state = self.state
        for part in parts:
            if isinstance(part, str):
                body = b"s" + part.encode()
            else:
                body = b"i" + operator.index(part).to_bytes(16, "little", signed=True)
            state = hashlib.sha256(state + body).digest()
        return Key(self.seed, state)

    def bits(self) -> np.random.SFC64:
        """Return a raw bit stream; NumPy promises that it never changes between versions."""
        return np.random.SFC64(np.random.SeedSequence(int.from_bytes(self.state, "little")))

    def rng(self) -> np.random.Generator:
        """Return a generator over `bits`."""
        return np.random.Generator(self.bits())

    def seed64(self) -> int:
        """Return 63 bits for a library that wants an integer seed.

        >>> 0 <= Key.root(1).seed64() < 2**63
        True
        """
        return int.from_bytes(self.state[:8], "little") >> 1

    def uniform(self) -> float:
        """Return one draw from [0, 1) without building a generator.

        >>> 0 <= Key.root(1).uniform() < 1
        True
        """
        return (int.from_bytes(self.state[8:16], "little") >> 11) * 2.0**-53
