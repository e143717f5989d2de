r"""Real numbers as ring elements, such that a sum cannot overflow.

A coordinate x, clipped to ±C and scaled by a secret weight w in [0, 1], becomes

    q = floor(w * x / g + u),   g = C / L,   L = 2^(b - 1) - 1,

in two's complement modulo 2^m, with u the middle of one of 2^16 equal steps of [0, 1), so that q is
unbiased up to 2^-17 of a grid step. |w x / g| is held to L before rounding, L below 2^35 and u a
multiple of 2^-17 below 1; L + u is then an exact float64 below L + 1, rounding is monotone, and so
|q| <= L always. The sum of n such q lies within ±n L, which the ring holds when
m >= b + ceil(log2 n) + 1, with one bit to spare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError, NotFinite, OutOfRange, PlanError, WrongShape
from choral.core.keys import Key
from choral.crypto.ring import Ring, RingVector

MIN_BITS: Final = 2
MAX_BITS: Final = 36
"""Above it, float64 no longer holds a value and its rounding draw together."""

GRANULE: Final = 1 << 14
"""Coordinates whose rounding draws come from one key: chunks of any size draw the same."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A grid for coordinates, part of a round's signed context.

    Args:
        ring: Where the sum lives.
        bits: b, with the sign: 2 to 36 and at most the ring's.
        clip: C, the bound of one coordinate; finite and above 0.

    Raises:
        ConfigError: One of them is out of range.
    """

    ring: Ring
    bits: int
    clip: float

    def __post_init__(self) -> None:
        most = min(MAX_BITS, self.ring.bits)
        if not MIN_BITS <= self.bits <= most:
            raise ConfigError(f"{self.bits} bits a coordinate: expected {MIN_BITS} to {most}")
        if not (math.isfinite(self.clip) and 2.0**-64 <= self.clip <= 2.0**64):
            raise ConfigError(f"clip {self.clip}: expected 2^-64 to 2^64")

    @property
    def limit(self) -> int:
        """L: the largest encoded magnitude."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def grid(self) -> float:
        """g: the distance of two neighbouring values."""
        return self.clip / self.limit

    def encode_into(
        self,
        x: npt.NDArray[np.floating[Any]],
        out: RingVector,
        *,
        start: int,
        key: Key,
        weight: float,
    ) -> None:
        """Encode a chunk of a vector.

        Guarantees: any division of the vector into chunks gives the same integers, and no integer
        leaves ±`limit`.

        Args:
            x: Coordinates, float32 or float64, shape `[n]`; beyond ±clip they are clipped.
            out: Receives the ring elements, shape `[n]`.
            start: Place of the chunk's first coordinate in the whole vector.
            key: Rounding key of (run, round, client).
            weight: w, 0 to 1, applied after the clip.

        Raises:
            NotFinite: NaN or infinity in `x`.
            OutOfRange: The weight is not in 0 to 1.
            WrongShape: `out` is not of the ring or not as long as `x`.
        """
        self.ring.check(out)
        if x.shape != out.shape or start < 0:
            raise WrongShape(f"{list(x.shape)} coordinates from {start} into {list(out.shape)}")
        if not 0 <= weight <= 1:
            raise OutOfRange("a weight is not in 0 to 1")
        signed = out.view(self.ring.signed)
        done = 0
        while done < x.size:
            number, skip = divmod(start + done, GRANULE)
            part = slice(done, min(done + GRANULE - skip, x.size))
            y = self._scaled(x[part], weight)
            y += _draws(key.fold(number), skip, y.size)
            np.floor(y, out=y)
            signed[part] = y
            done = part.stop
        self.ring.reduce(out)

    def _scaled(self, x: npt.NDArray[np.floating[Any]], weight: float) -> npt.NDArray[np.float64]:
        """Return w x / g, clipped."""
        if not (math.isfinite(x.min()) and math.isfinite(x.max())):
            raise NotFinite("a coordinate is NaN or infinity")
        y: npt.NDArray[np.float64] = np.multiply(x, self.limit / self.clip, dtype=np.float64)
        np.maximum(y, -float(self.limit), out=y)
        np.minimum(y, float(self.limit), out=y)
        if weight != 1:
            y *= weight
        return y

    def decode(self, total: RingVector, *, count: int, slack: int) -> npt.NDArray[np.float64]:
        """Return a sum of encoded vectors as real numbers.

        Args:
            total: The sum, in the ring.
            count: Contributions in it.
            slack: How far beyond `count` times `limit` added noise may carry it; 0 without noise.

        Raises:
            OutOfRange: A coordinate is beyond that bound: some client did not encode honestly.
        """
        values = self.ring.centred(total)
        bound = count * self.limit + slack
        if values.size and max(-int(values.min()), int(values.max())) > bound:
            raise OutOfRange(
                f"a coordinate of the sum is beyond what {count} clipped contributions can reach",
                hint="a client sent something else than an encoded update: regroup",
            )
        decoded: npt.NDArray[np.float64] = np.multiply(values, self.grid, dtype=np.float64)
        return decoded


def _draws(key: Key, skip: int, size: int) -> npt.NDArray[np.float64]:
    """Return the mid-step draws of a granule, from the `skip`th on."""
    raw = key.bits().random_raw(-(-(skip + size) // 4)).astype("<u8", copy=False)
    u = raw.view("<u2")[skip : skip + size] * 2.0**-16
    u += 2.0**-17
    return u


def check_no_overflow(*, bits: int, clients: int, modulus_bits: int, noise_headroom: int) -> None:
    """Refuse a ring in which the sum of a cohort could wrap around.

    Args:
        bits: b of one contribution, with the sign.
        clients: n_max, the largest cohort.
        modulus_bits: m.
        noise_headroom: Bits for noise that is added before masking; 0 without noise.

    Raises:
        PlanError: m is below b + ceil(log2 n_max) + 1 + headroom.

    >>> check_no_overflow(bits=20, clients=1024, modulus_bits=32, noise_headroom=1)
    """
    if bits < MIN_BITS or clients < 1 or noise_headroom < 0:
        raise ConfigError(
            f"bits {bits}, clients {clients}, noise headroom {noise_headroom}: "
            f"expected at least {MIN_BITS}, 1, 0"
        )
    needed = bits + (clients - 1).bit_length() + 1 + noise_headroom
    if modulus_bits < needed:
        raise PlanError(
            f"a sum of {clients} contributions of {bits} bits needs {needed} bits, "
            f"the modulus has {modulus_bits}",
            hint=f"a larger modulus, a smaller cohort, or at most {bits - needed + modulus_bits} "
            "bits a coordinate",
        )
