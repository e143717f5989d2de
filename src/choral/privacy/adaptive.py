"""A clip that follows a quantile of the clients' norms.

Source: Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive
Clipping", 2021 (arXiv 1905.03871), algorithm 1: with b the noised fraction of clients whose update
was not clipped and g the target quantile, C <- C exp(-0.2 (b - g)). The noise of the model's own
release follows C.

The fraction is released beside the model, about the same cohort. Both together are one Gaussian
release, of noise z over sensitivity with 1 / z^2 = 1 / z_model^2 + 1 / (2 sigma)^2 (theorem 1
there): the number of unclipped clients, minus half the cohort, moves by 1/2. So whoever accounts
for z accounts for both, sampled or not, and the model's own noise is what is left of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from choral.core.checks import real, whole
from choral.core.errors import PlanError
from choral.crypto.secret import Secret
from choral.privacy.noise import discrete_gaussian
from choral.privacy.vocabulary import UNSAMPLED, Mechanism, Release, Sampling

_STEPS: Final = 2**24
"""Grid steps of one client's half a vote: fine enough for `central.LEAST_SIGMA`."""


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """State of an adaptive clip.

    Attributes:
        bound: C, in force for the next round.
        quantile: Target fraction of clients that are not clipped, in (0, 1).
        rate: Step of the logarithm of C.
        sigma: Standard deviation of the noise on the number of clients that were not clipped, at
            least 0.02; the paper takes a twentieth of the expected cohort.
        least: Smallest bound, above 0.
        most: Largest bound.

    Raises:
        ConfigError: One of them is out of range.
    """

    bound: float
    sigma: float
    quantile: float = 0.5
    rate: float = 0.2
    least: float = 1e-6
    most: float = 1e6

    def __post_init__(self) -> None:
        real("adaptive.least", self.least, above=0)
        real("adaptive.most", self.most, least=self.least)
        real("adaptive.bound", self.bound, least=self.least, most=self.most)
        real("adaptive.sigma", self.sigma, least=0.02, most=1e9)
        real("adaptive.quantile", self.quantile, above=0, below=1)
        real("adaptive.rate", self.rate, above=0, most=2)

    def release(self, sampling: Sampling = UNSAMPLED) -> Release:
        """Return what an accountant must know: each client moves the sum of b - 1/2 by 1/2."""
        return Release(Mechanism.GAUSSIAN, self.sigma, 0.5, sampling, dimension=1)

    def step(self, fraction: float) -> AdaptiveClip:
        """Return the state after a round.

        Args:
            fraction: The noised fraction of clients that were not clipped; it may leave 0 to 1.

        >>> AdaptiveClip(bound=1.0, sigma=1.0, quantile=0.5).step(0.0).bound > 1.1
        True
        """
        held = min(max(fraction, 0.0), 1.0)
        bound = self.bound * math.exp(-self.rate * (held - self.quantile))
        return replace(self, bound=min(max(bound, self.least), self.most))


def count_sigma_for(multiplier: float, *, expected: float) -> float:
    """Return the noise on the number of unclipped clients.

    It is a twentieth of the expected cohort, as in the paper, and no less than the multiplier: then
    the model's own noise grows by at most 16 %.

    >>> count_sigma_for(1.0, expected=100.0), count_sigma_for(2.0, expected=10.0)
    (5.0, 2.0)
    """
    return max(expected / 20.0, multiplier)


def model_multiplier(multiplier: float, count_sigma: float) -> float:
    """Return z_model: noise over sensitivity that is left for the model.

    Args:
        multiplier: z of both releases together, above 0.
        count_sigma: Noise on the number of unclipped clients.

    Raises:
        PlanError: Nothing is left: the number alone costs as much as both may.

    >>> model_multiplier(1.0, 1.0) < 1.16
    True
    """
    left = multiplier**-2 - (2.0 * count_sigma) ** -2
    if left <= 0:
        raise PlanError(
            f"noise of {count_sigma:g} clients on how many were clipped leaves none for the model "
            f"at a multiplier of {multiplier:g}",
            hint="more of it, above half the multiplier",
        )
    return 1.0 / math.sqrt(left)


def joint_release(multiplier: float, *, sampling: Sampling, dimension: int) -> Release:
    """Return what an accountant must know of both releases, whatever the bound is in a round.

    The model's noise is discrete and its sensitivity holds the rounding: that moves the multiplier
    by less than one part in 10^9, which is taken off here.
    """
    sigma = multiplier * (1.0 - 1e-9)
    return Release(Mechanism.GAUSSIAN, sigma, 1.0, sampling, dimension=dimension + 1)


def noised_fraction(
    unclipped: int, count: int, *, expected: float, sigma: float, seed: Secret
) -> float:
    """Return the noised fraction of clients that were not clipped.

    The sum of b_i - 1/2 gets Gaussian noise and is divided by the expected cohort, so that neither
    number is released by itself.

    Args:
        unclipped: Clients whose update was not clipped, 0 to `count`.
        count: Clients in the sum.
        expected: Expected size of the cohort, above 0.
        sigma: Standard deviation of the noise, in clients.
        seed: 32 bytes of the `Rand` port, for this number alone.

    Raises:
        ConfigError: A number is out of range.
    """
    whole("count", count, least=0)
    whole("unclipped", unclipped, least=0, most=count)
    real("expected", expected, above=0)
    noise = int(discrete_gaussian(seed, sigma=sigma * 2 * _STEPS, size=1)[0])
    halves = (2 * unclipped - count) * _STEPS + noise
    return 0.5 + halves / (2 * _STEPS) / expected
