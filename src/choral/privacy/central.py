r"""Noise at a coordinator that is trusted with the sum: what DP-FedAvg releases.

The sum of clipped updates is a vector of whole numbers of grid steps. Discrete Gaussian noise is
added on that same grid, and the result is divided by the expected cohort.

With a standard deviation of s >= 2^18 steps that noise is as good as continuous noise that was
rounded: the probabilities of N_Z(0, s^2) and of round(N(0, s^2 - 1/12)) have the ratio
1 + He4(k / s) / (2880 s^4) + ..., so that their statistical distance is below 2^-64, which
`noise.DISTANCE` covers. An integer plus rounded noise is rounded continuous noise about it, which
is post-processing. So every accountant of the Gaussian mechanism bounds this one, sampled or not.

Source of the mechanism: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent
Language Models", 2018 (arXiv 1710.06963), algorithm 1, with their fixed-denominator estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from choral.core.checks import real
from choral.core.errors import PlanError
from choral.core.exact import Encoding, ExactSum, Total
from choral.core.params import Vector
from choral.crypto.secret import Secret
from choral.privacy.noise import Integers, discrete_gaussian
from choral.privacy.vocabulary import UNSAMPLED, Mechanism, Release, Sampling

LEAST_SIGMA: Final = 2.0**18
"""Standard deviation in grid steps from which discrete noise is as good as rounded noise."""


@dataclass(frozen=True, slots=True)
class Central:
    """Terms of central noise.

    Attributes:
        bound: C of the clip, above 0.
        multiplier: z: noise over sensitivity, above 0.
        expected: Expected size of the cohort: q times the population, or its fixed size. Dividing
            by the realised size would release that, too.
        dimension: Coordinates of the vector.
        step: Distance of two neighbouring sums, in units of an update of weight 1.
        sampling: Who takes part.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: The grid is too coarse for the noise.
    """

    bound: float
    multiplier: float
    expected: float
    dimension: int
    step: float
    sampling: Sampling = UNSAMPLED

    def __post_init__(self) -> None:
        for name in ("bound", "multiplier", "expected", "step"):
            object.__setattr__(self, name, real(f"central.{name}", getattr(self, name), above=0))
        if self.sigma_steps < LEAST_SIGMA:
            raise PlanError(
                f"noise of {self.sigma_steps:.3g} grid steps: expected at least {LEAST_SIGMA:g}",
                hint="a smaller `encoding.range` makes the grid finer",
            )

    @staticmethod
    def step_of(encoding: Encoding) -> float:
        """Return the distance of two sums on a grid, for updates of weight 1.

        >>> Central.step_of(Encoding(range=1.0, weight_unit=1.0)) == 2.0**-31
        True
        """
        return encoding.grid * encoding.weight_unit

    @staticmethod
    def grid_for(bound: float) -> Encoding:
        """Return the grid of a sum of updates within a clip, weight 1 for each.

        >>> Central.grid_for(1.0).range
        2.0
        """
        return Encoding(range=2.0 * bound, weight_unit=1.0, weight_cap=1.0)

    @property
    def sensitivity(self) -> float:
        """Bound of one encoded update: stochastic rounding moves a coordinate by below one step."""
        return self.bound + self.step * math.sqrt(self.dimension)

    @property
    def sigma(self) -> float:
        """Standard deviation of one coordinate of the noise, in units of the sum."""
        return self.multiplier * self.sensitivity

    @property
    def sigma_steps(self) -> float:
        """The same in steps of the grid."""
        return self.sigma / self.step

    @property
    def release(self) -> Release:
        """What an accountant must know of one round."""
        steps = math.sqrt(self.sigma_steps**2 - 1 / 12)
        return Release(
            Mechanism.GAUSSIAN,
            sigma=steps * self.step,
            sensitivity=self.sensitivity,
            sampling=self.sampling,
            dimension=self.dimension,
        )


def noised_mean(total: Integers, terms: Central, seed: Secret) -> Vector:
    """Return the noised sum over the expected cohort.

    Guarantees: the same seed gives the same noise, so that a round that is computed again from the
    same sum releases the same values; never use one seed for two sums.

    Args:
        total: The exact sum in grid steps, int64, shape `[terms.dimension]`.
        terms: The terms.
        seed: 32 bytes of the `Rand` port, for this round and attempt alone.

    Returns:
        float32, shape `[terms.dimension]`.

    Raises:
        PlanError: The vector has another length than the terms say.
    """
    if total.shape != (terms.dimension,):
        raise PlanError(f"a sum of {list(total.shape)}, expected [{terms.dimension}]")
    noisy = discrete_gaussian(seed, sigma=terms.sigma_steps, size=total.size)
    noisy += total
    return np.multiply(noisy, terms.step / terms.expected, dtype=np.float64).astype(np.float32)


def noised_total(total: ExactSum, terms: Central, seed: Secret) -> Total:
    """Return what a plain round releases: mean and weight alone, over the expected cohort.

    `count` is the realised cohort, for the coordinator's own log; metrics are left out, since
    nothing bounds or noises them.

    Args:
        total: The exact sum of clipped updates of weight 1.
        terms: The terms, whose step is that of the sum's encoding.
        seed: As for `noised_mean`.

    Raises:
        PlanError: The terms are for another grid or length.
    """
    if terms.step != Central.step_of(total.encoding):
        raise PlanError(f"noise for steps of {terms.step:g}, the sum has others")
    mean = noised_mean(total.state()["vector"], terms, seed)
    return Total(mean, terms.expected, total.count, {})
