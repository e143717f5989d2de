r"""Noise at the clients, for a coordinator that is not trusted with a clean sum.

A client clips its update to C, rotates it, scales it by s, rounds it at random to integers until
their norm is within a bound, adds integer noise, and encodes the result in the ring of the secure
sum. With u survivors guaranteed and f of them corrupt, each adds noise of variance V / (u - f), so
that honest survivors alone make up V; with fewer survivors nothing is decoded.

The bound of the integers, for c = s C in D coordinates (conditional rounding with beta =
exp(-1/2)):

    B^2 = min((c + sqrt(D))^2, c^2 + D / 4 + c + sqrt(D) / 2).

Who takes part is known to the coordinator and to the others, so no credit is given for sampling,
and the relation is `replace` or `zero_out`.

Sources: Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), algorithms 1 and 2, and theorem 1 for the
bound; Agarwal, Kairouz, Liu 2021 (arXiv 2110.04995) for Skellam noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.checks import one_of, real, whole
from choral.core.errors import PlanError, Refused
from choral.core.keys import Key
from choral.crypto.ring import Ring, RingVector
from choral.crypto.secret import Secret
from choral.privacy.accounting import smallest_noise
from choral.privacy.clip import clip_l2, norm_of
from choral.privacy.noise import (
    MAX_SKELLAM_SIGMA,
    Integers,
    discrete_gaussian,
    skellam,
    skellam_end,
)
from choral.privacy.rotation import Floats, block_of, padded, rotate, unrotate
from choral.privacy.vocabulary import Mechanism, Relation, Release

WRAP_BITS: Final = 40
"""A sum wraps around with a probability below 2^-40."""

LEAST_GAUSSIAN_SIGMA: Final = 2.0
"""Fewest grid units of a client's discrete Gaussian: below, sums are not nearly Gaussian."""

_BLOCK: Final = 1 << 15
"""Coordinates that are rounded at once."""

_NOISE_BLOCK: Final = 1 << 16
"""Coordinates that get their noise at once."""

_MOST_FLOAT32: Final = 2.0**22
"""Norm in grid units up to which float32 holds every rounded coordinate."""

_TRIES: Final = 200
"""Rounding succeeds with a probability of at least 1 - exp(-1/2) each time."""


@dataclass(frozen=True, slots=True)
class Distributed:
    """Terms of distributed noise, the same for everyone in a round.

    Attributes:
        bound: C of the clip, above 0.
        scale: s, grid units for a change of 1, above 0.
        variance: V, of the noise that honest survivors make up, in grid units squared.
        dimension: Coordinates of an update, with any extra number that shares its clip.
        cohort: n, the most clients in a sum.
        survivors: u, the fewest that a sum is decoded for.
        corrupt: f, survivors who may leave out their noise.
        ring_bits: m of the ring.
        mechanism: `skellam` or `discrete_gaussian`.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: The noise of one client has no table or is too little for its kind, or the sum
            could wrap around with a probability above 2^-40.
    """

    bound: float
    scale: float
    variance: float
    dimension: int
    cohort: int
    survivors: int
    corrupt: int
    ring_bits: int
    mechanism: Mechanism = Mechanism.SKELLAM

    def __post_init__(self) -> None:
        for name in ("bound", "scale", "variance"):
            value = real(f"distributed.{name}", getattr(self, name), above=0)
            object.__setattr__(self, name, value)
        words = (Mechanism.SKELLAM.value, Mechanism.DISCRETE_GAUSSIAN.value)
        found = Mechanism(one_of("distributed.mechanism", self.mechanism, words))
        object.__setattr__(self, "mechanism", found)
        whole("distributed.dimension", self.dimension, least=1)
        whole("distributed.cohort", self.cohort, least=1)
        whole("distributed.survivors", self.survivors, least=1, most=self.cohort)
        whole("distributed.corrupt", self.corrupt, least=0, most=self.survivors - 1)
        Ring(self.ring_bits)
        self._check_noise()
        most = 2 ** (self.ring_bits - 1) - 1
        if self.reach > most:
            raise PlanError(
                f"a sum of {self.cohort} may reach {self.reach:.3g}, a ring of {self.ring_bits} "
                f"bits holds {most:.3g}",
                hint="a smaller scale, a larger modulus, or a smaller cohort",
            )

    def _check_noise(self) -> None:
        sigma = math.sqrt(self.client_variance)
        skellam_noise = self.mechanism is Mechanism.SKELLAM
        if skellam_noise and not 0.1 <= sigma <= MAX_SKELLAM_SIGMA:
            raise PlanError(
                f"Skellam noise of {sigma:.3g} grid units a client: expected 0.1 to "
                f"{MAX_SKELLAM_SIGMA:g}",
                hint="a smaller scale where it is too much, a larger one where it is too little",
            )
        if not skellam_noise and sigma < LEAST_GAUSSIAN_SIGMA:
            raise PlanError(
                f"a discrete Gaussian of {sigma:.3g} grid units a client: expected at least "
                f"{LEAST_GAUSSIAN_SIGMA:g}",
                hint="a larger scale, or Skellam noise",
            )

    @property
    def honest(self) -> int:
        """Survivors whose noise is counted on."""
        return self.survivors - self.corrupt

    @property
    def client_variance(self) -> float:
        """Variance of one client's noise: V / (u - f)."""
        return self.variance / self.honest

    @property
    def size(self) -> int:
        """Coordinates of a rotated update."""
        return padded(self.dimension)

    @property
    def l2(self) -> float:
        """B: bound of the norm of one client's integers."""
        return rounded_norm(self.scale * self.bound, self.size)

    @property
    def release(self) -> Release:
        """What an accountant must know of one round, in grid units."""
        noise = math.sqrt(self.variance)
        return _release(self.mechanism, noise, self.l2, size=self.size, honest=self.honest)

    @property
    def reach(self) -> float:
        """The magnitude that no coordinate of a sum exceeds, but with a probability of 2^-40.

        Half of that is for the signal, by Hoeffding's bound over the rotation's signs, and half for
        the noise, by Chernoff's; rounding adds at most 1 a client.
        """
        bits = WRAP_BITS + 2 + math.log2(self.size)
        signal = self.cohort * self.scale * self.bound
        signal *= min(1.0, math.sqrt(2 * bits * math.log(2) / block_of(self.dimension)))
        total = self.cohort * self.client_variance
        if self.mechanism is Mechanism.SKELLAM:
            noise = float(skellam_end(total, bits))
        else:
            noise = math.sqrt(2 * total * bits * math.log(2))
        return signal + noise + self.cohort


def _release(mechanism: Mechanism, noise: float, l2: float, *, size: int, honest: int) -> Release:
    """Return a release of integers within an L2 norm, with the noise of the honest, in steps."""
    return Release(
        mechanism,
        sigma=noise,
        sensitivity=l2,
        l1=min(math.sqrt(size) * l2, l2**2),  # whole numbers are no larger than their squares
        dimension=size,
        addends=honest,
    )


def rounded_norm(norm: float, size: int) -> float:
    """Return the bound of the norm of a vector that was rounded at random, conditionally.

    >>> rounded_norm(100.0, 16) < 103
    True
    """
    root = math.sqrt(size)
    return min(norm + root, math.sqrt(norm**2 + size / 4 + norm + root / 2))


def round_within(x: Floats, bound: float, key: Key) -> Floats:
    """Return a vector rounded at random to integers, tried again until its norm is within a bound.

    Args:
        x: float32 or float64, shape `[n]`; float32 holds whole numbers up to 2^24.
        bound: As `rounded_norm` gives it.
        key: Rounding key of (run, round, attempt, client).

    Returns:
        Whole numbers in the dtype of `x`.

    Raises:
        Refused: No try was within the bound: the vector is larger than it was promised.
    """
    rounded = np.empty_like(x)
    dtype: Any = x.dtype.type
    for attempt in range(_TRIES):
        uniform, square = key.fold(attempt).rng().random, 0.0
        for at in range(0, x.size, _BLOCK):
            part, whole_ = x[at : at + _BLOCK], rounded[at : at + _BLOCK]
            np.floor(part, out=whole_)
            whole_ += uniform(part.size, dtype=dtype) < part - whole_
            exact = whole_.astype(np.float64, copy=False)
            square += float(np.dot(exact, exact))
        if square <= bound**2:
            return rounded
    raise Refused(f"a vector of norm {norm_of(x):.3g} cannot be rounded within {bound:.3g}")


def encode(
    delta: Floats,
    terms: Distributed,
    *,
    rotation: Key,
    rounding: Key,
    seed: Secret,
) -> RingVector:
    """Return one client's noised update in the ring, ready for masks.

    Args:
        delta: The update, weight multiplied in, finite, shape `[terms.dimension]`.
        terms: The terms.
        rotation: Key of (run, round, attempt), the same for everyone.
        rounding: Key of (run, round, attempt, client).
        seed: 32 bytes of the client's `Rand` port, for this attempt alone, sealed with it: an
            upload that is sent again must be the same, byte for byte.

    Returns:
        A vector of the ring, shape `[terms.size]`.

    Raises:
        PlanError: The update has another length.
    """
    if delta.shape != (terms.dimension,):
        raise PlanError(f"an update of {list(delta.shape)}, expected [{terms.dimension}]")
    fine = terms.scale * terms.bound < _MOST_FLOAT32
    turned = rotate(
        clip_l2(delta.astype(np.float32 if fine else np.float64, copy=False), terms.bound), rotation
    )
    turned *= turned.dtype.type(terms.scale)
    rounded = round_within(turned, terms.l2, rounding)
    ring = Ring(terms.ring_bits)
    vector = ring.zeros(terms.size)
    for at in range(0, terms.size, _NOISE_BLOCK):
        part = slice(at, min(at + _NOISE_BLOCK, terms.size))
        values = client_noise(terms, seed, part)
        values += rounded[part].astype(np.int64)
        vector[part] = values  # modulo 2^16, 2^32 or 2^64, as two's complement wraps
    ring.reduce(vector)
    return vector


def client_noise(terms: Distributed, seed: Secret, part: slice | None = None) -> Integers:
    """Return one client's noise, or a part of it, int64; shape `[terms.size]` for the whole."""
    start, stop, _ = (part or slice(None)).indices(terms.size)
    size, variance = stop - start, terms.client_variance
    if terms.mechanism is Mechanism.SKELLAM:
        return skellam(seed, variance=variance, size=size, start=start)
    return discrete_gaussian(seed, sigma=math.sqrt(variance), size=size, start=start)


def decode(
    total: RingVector, terms: Distributed, *, rotation: Key, survivors: int
) -> npt.NDArray[np.float64]:
    """Return the sum of the updates, with the noise of all survivors in it.

    Args:
        total: The sum in the ring, unmasked, shape `[terms.size]`.
        terms: The terms.
        rotation: As for `encode`.
        survivors: Clients in the sum.

    Returns:
        float64, shape `[terms.dimension]`.

    Raises:
        Refused: Fewer or more survivors than the noise and the ring are made for.
    """
    if not terms.survivors <= survivors <= terms.cohort:
        raise Refused(
            f"{survivors} survivors, the noise is made for {terms.survivors} to {terms.cohort}",
            hint="abort the attempt: the sum would be protected by too little noise",
        )
    values = Ring(terms.ring_bits).centred(total).astype(np.float64)
    found = unrotate(values / terms.scale, terms.dimension, rotation)
    return found.astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class NoisedSum:
    """Who takes part in a secure sum with noise, and in which ring: terms without a grid.

    Attributes:
        bound: As in `Distributed`, as are all that follow.
        dimension: Coordinates.
        cohort: Most clients.
        survivors: Fewest survivors.
        corrupt: Corrupt survivors.
        ring_bits: m.
        mechanism: `skellam` or `discrete_gaussian`.
    """

    bound: float
    dimension: int
    cohort: int
    survivors: int
    corrupt: int
    ring_bits: int
    mechanism: Mechanism = Mechanism.SKELLAM

    @property
    def size(self) -> int:
        """Coordinates of a rotated update."""
        return padded(self.dimension)

    def noise_of(self, scale: float, z: float) -> Release:
        """Return what a round releases on a grid, with noise of z times a contribution's bound."""
        l2 = rounded_norm(scale * self.bound, self.size)
        noise, honest = z * l2, self.survivors - self.corrupt
        return _release(self.mechanism, noise, l2, size=self.size, honest=honest)

    def at(self, scale: float, z: float) -> Distributed:
        """Return the terms on a grid.

        Raises:
            PlanError: They do not hold there.
        """
        variance = self.noise_of(scale, z).sigma ** 2
        return Distributed(
            scale=scale, variance=variance, **{f.name: getattr(self, f.name) for f in fields(self)}
        )


def plan(
    terms: NoisedSum,
    *,
    delta: float,
    rounds: int,
    epsilon: float | None = None,
    multiplier: float | None = None,
    relation: Relation = Relation.REPLACE,
) -> Distributed:
    """Return terms with the noise that is asked for, on the finest grid that the ring holds.

    Args:
        terms: Who takes part, and in which ring.
        delta: In (0, 1).
        rounds: How many releases.
        epsilon: For all rounds together: the noise is the least that keeps it.
        multiplier: z: the noise over the bound of one contribution, where it is given instead.
        relation: `replace` or `zero_out`.

    Raises:
        PlanError: No grid fits: a larger ring, or more noise a client, is needed; or a relation
            that hides who takes part; or neither an epsilon nor noise.
    """
    if relation is Relation.ADD_REMOVE:
        raise PlanError(
            "who takes part in a secure sum is known, so `add_remove` is not promised",
            hint="take the relation `replace` or `zero_out`",
        )
    if epsilon is None and multiplier is None:
        raise PlanError("neither an epsilon nor noise for the terms of a secure sum")

    def calibrated(scale: float) -> float:
        if epsilon is None or multiplier is not None:
            return multiplier or 0.0
        return smallest_noise(
            lambda z: {terms.noise_of(scale, z): rounds},
            epsilon=epsilon,
            delta=delta,
            relation=relation,
        )

    scale = math.sqrt(terms.size) / terms.bound  # about one grid unit a coordinate
    finest = _finest(terms, calibrated(scale), scale)
    return terms.at(finest, calibrated(finest))


def _finest(terms: NoisedSum, z: float, start: float) -> float:
    """Return the finest scale, in steps of 19 %, whose terms hold with about noise z."""
    scale: float | None = None
    problem: PlanError | None = None
    for power in range(-64, 129):
        at = start * 2.0 ** (power / 4)
        try:
            terms.at(at, 1.02 * z)
            terms.at(at, 0.9 * z)
            scale = at
        except PlanError as error:
            problem = error
            if scale is not None:
                break
    if scale is None:
        raise problem or PlanError("no grid fits")
    return scale
