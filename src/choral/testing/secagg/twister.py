"""Masks from the Mersenne Twister, and how 624 known outputs give all others away.

Source: Matsumoto and Nishimura 1998, "Mersenne Twister", ACM TOMACS 8(1): the state is 624 words,
an output is one word times an invertible matrix over GF(2) (the tempering), and the next state is
a linear function of the state. It was made for simulation, not for secrets.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from choral.crypto.ring import Ring, RingVector
from choral.crypto.secret import Secret

STATE: Final = 624
"""Words of state, and outputs that give it away."""
_WORD: Final = 0xFFFFFFFF


class TwisterMask:
    """A mask as `choral.crypto.prg.Mask` gives, from a generator that is not cryptographic.

    Args:
        generator: Not looked at.
        key: Seed.
        ring: The ring of the vectors; one output for each element, so m = 32.
    """

    def __init__(self, generator: Any, key: Secret, *, ring: Ring) -> None:
        self.ring = ring
        self._seed = [int(word) for word in np.frombuffer(key.expose(), "<u4")]

    def add_into(self, vector: RingVector, *, start: int, sign: Literal[1, -1]) -> None:
        """Add the mask to a chunk of a vector, or subtract it, in place."""
        mask = outputs(np.random.MT19937(self._seed), start + vector.size)[start:]
        apply = self.ring.add if sign == 1 else self.ring.subtract
        apply(vector, mask.astype(self.ring.dtype))

    def erase(self) -> None:
        """Forget the seed."""
        self._seed = []


def outputs(generator: np.random.MT19937, count: int) -> npt.NDArray[np.uint32]:
    """Return the next outputs of a generator."""
    return np.asarray(generator.random_raw(count)).astype(np.uint32)


def untemper(word: int) -> int:
    """Return the word of state behind an output.

    >>> hex(untemper(0))
    '0x0'
    """
    word ^= word >> 18
    word ^= word << 15 & 0xEFC60000
    seven = word
    for _ in range(4):
        seven = word ^ (seven << 7 & 0x9D2C5680)
    word = seven & _WORD
    eleven = word
    for _ in range(2):
        eleven = word ^ eleven >> 11
    return eleven & _WORD


def predict(known: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.uint32] | None:
    """Return the outputs after the known ones, None where these are not a twister's.

    Args:
        known: More than 624 outputs from the generator's start; those above 624 are the check.
        count: How many more.
    """
    state = np.array([untemper(int(word)) for word in known[:STATE]], np.uint32)
    generator = np.random.MT19937(0)
    generator.state = {"bit_generator": "MT19937", "state": {"key": state, "pos": STATE}}
    checked = outputs(generator, known.size - STATE)
    if not checked.size or not np.array_equal(checked, known[STATE:]):
        return None
    return outputs(generator, count)
