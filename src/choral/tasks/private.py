"""Record-level privacy of local training: secret batches, clipped gradients, secret noise.

A task that trains by it says so by `record_privacy = True`, and asks for its steps here:

    for step in private_steps(plan.local, count=len(x), dimension=w.size, rand=self._rand):
        gradient = step.gradient(per_example_gradients(x[step.rows], y[step.rows]))

Batches and noise come from the `Rand` port and not from the plan's key, which the coordinator
knows. So two trainings of the same arguments differ, and nobody can take the noise off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.params import Vector
from choral.core.plan import Local
from choral.core.ports import Rand
from choral.crypto.secret import Secret
from choral.privacy.noise import Integers, discrete_gaussian
from choral.privacy.record import (
    SIGMA_STEPS,
    RecordStep,
    drawn_rows,
    multiplier_of,
    record_privacy,
    sampling_rate,
    steps_of,
)

_NOISE_BLOCK: Final = 1 << 15
"""Draws of noise that small models take at once, for several steps."""


class Entropy:
    """The operating system's randomness: what tasks take where no `Rand` is given."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody can predict."""
        return os.urandom(size)


@dataclass(frozen=True, slots=True, eq=False)
class PrivateStep:
    """One step of a private training.

    Attributes:
        rows: Indices of the records that were drawn; there may be none.
        terms: Bound and noise.
        noise: In grid steps.
    """

    rows: npt.NDArray[np.int64]
    terms: RecordStep
    noise: Integers

    def gradient(self, blocks: Iterable[npt.NDArray[np.floating[Any]]]) -> Vector:
        """Return the private gradient of the step; of noise alone where no record was drawn.

        Args:
            blocks: Gradients of the drawn records, one row each, in as many pieces as suits.

        Returns:
            float32, shape `[dimension]`.
        """
        return self.terms.gradient(self.terms.total(blocks), self.noise)


def private_steps(
    local: Local, *, count: int, dimension: int, rand: Rand | None
) -> Iterator[PrivateStep]:
    """Yield the steps of a private training.

    Args:
        local: Local terms, with `record`.
        count: Records of the client, at least 1.
        dimension: Trained coordinates.
        rand: Secret randomness; None for the operating system's.

    Raises:
        EmptyClient: There are no records.
        PlanError: There are no terms, or no noise is enough for their epsilon.
    """
    source: Rand = Entropy() if rand is None else rand
    q = sampling_rate(local, count)
    z = multiplier_of(local, count, dimension=dimension)
    terms = RecordStep(record_privacy(local).max_grad_norm, z, q * count, dimension)
    with_sampling, with_noise = Secret.random(source), Secret.random(source)
    steps = steps_of(local, count)
    several = max(1, _NOISE_BLOCK // dimension)
    try:
        for first in range(0, steps, several):
            taken = min(several, steps - first)
            noise = _noise(with_noise, z, taken, dimension, first)
            for i in range(taken):
                rows = drawn_rows(with_sampling, q=q, count=count, step=first + i)
                yield PrivateStep(rows, terms, noise[i])
    finally:
        with_sampling.erase()
        with_noise.erase()


def _noise(seed: Secret, z: float, steps: int, dimension: int, first: int) -> Integers:
    """Return the noise of some steps, shape `[steps, dimension]`."""
    if not z:
        return np.zeros((steps, dimension), np.int64)
    size = steps * dimension
    drawn = discrete_gaussian(seed, sigma=SIGMA_STEPS, size=size, start=first * dimension)
    return drawn.reshape(steps, dimension)
