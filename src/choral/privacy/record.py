r"""Record-level privacy: the noise of one step of DP-SGD, its sampling, and what it costs.

The gradient of each drawn record is clipped to C, rounded to whole steps of a grid and added up as
integers, so that a sum does not depend on the order of its terms and one record changes it by at
most C + step * sqrt(d) / 2. Discrete Gaussian noise comes on the same grid. Its standard deviation
is `SIGMA_STEPS` = 2^24 steps whatever the terms are, far above `central.LEAST_SIGMA`: the
accountants of the Gaussian mechanism bound it, as `central` shows. Noise and rounding are measured
by the sensitivity with the rounding in it, so that the noise multiplier is what was asked for.

A record takes part in a step by 64 bits of a key stream, and with a probability of at most q, less
by below 2^-64. Who knows neither seed can tell neither who took part nor the noise.

Source: Abadi et al., "Deep Learning with Differential Privacy", 2016 (arXiv 1607.00133), algorithm
1. The divisor is the expected batch size, which is public; the realised one is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.checks import real, whole
from choral.core.errors import EmptyClient, PlanError
from choral.core.params import ClientId, Vector
from choral.core.plan import Local, RecordPrivacy
from choral.crypto.derivation import hkdf_sha256
from choral.crypto.encoding import frame
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import SECRET_SIZE, Secret
from choral.privacy.accounting import epsilon_of, smallest_noise
from choral.privacy.adapters import Counts
from choral.privacy.clip import norm_error
from choral.privacy.noise import Integers
from choral.privacy.vocabulary import (
    DEFAULT_DELTA,
    Epsilon,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
)

SIGMA_STEPS: Final = 2.0**24
"""Standard deviation of the noise in grid steps."""

_SAMPLING: Final = "choral record sampling v1"
_BLOCK: Final = 1 << 21
"""Elements of gradients that are rounded at once."""


# --- one step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordStep:
    """Terms of one step.

    Attributes:
        bound: C of the clip, above 0.
        multiplier: z, at least 0; 0 adds no noise, and epsilon is infinite.
        expected: Expected batch size.
        dimension: Coordinates of a gradient.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: The rounding of that many coordinates is not small beside the noise.
    """

    bound: float
    multiplier: float
    expected: float
    dimension: int

    def __post_init__(self) -> None:
        real("record.max_grad_norm", self.bound, above=0)
        real("record.noise_multiplier", self.multiplier, least=0)
        real("record.batch_size", self.expected, above=0)
        whole("record.dimension", self.dimension, least=1)
        if self.multiplier * math.sqrt(self.dimension) > SIGMA_STEPS:
            raise PlanError(
                f"a noise multiplier of {self.multiplier:g} over {self.dimension} coordinates: "
                "rounding would weigh as much as a gradient",
                hint="less noise, or a smaller model",
            )

    @cached_property
    def step(self) -> float:
        """Distance of two neighbouring sums, in the units of a gradient.

        It solves step * SIGMA_STEPS = multiplier * sensitivity.
        """
        if not self.multiplier:
            return self.bound / SIGMA_STEPS
        rounding = 0.5 * self.multiplier * math.sqrt(self.dimension)
        return self.multiplier * self.bound / (SIGMA_STEPS - rounding)

    @property
    def sensitivity(self) -> float:
        """Bound of what one record adds to a sum, rounding included."""
        return self.bound + 0.5 * self.step * math.sqrt(self.dimension)

    def total(self, blocks: Iterable[npt.NDArray[np.floating[Any]]]) -> Integers:
        """Return the sum of clipped gradients in grid steps.

        Guarantees: adding a record to the blocks changes the sum by at most `sensitivity`, whatever
        its gradient is; one with NaN or infinity counts as zero. The order and the cuts of the
        blocks do not matter.

        Args:
            blocks: float, shape `[records, dimension]` each, one row a record.
        """
        sum_ = np.zeros(self.dimension, np.int64)
        rows = max(1, _BLOCK // self.dimension)
        for block in blocks:
            for at in range(0, len(block), rows):
                sum_ += self._rounded(block[at : at + rows])
        return sum_

    def _rounded(self, block: npt.NDArray[np.floating[Any]]) -> Integers:
        wide = block.astype(np.float64, order="C")
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        lost = ~np.isfinite(norms)
        wide[lost] = 0.0
        norms[lost] = 0.0
        with np.errstate(divide="ignore"):
            bound = self.bound * (1.0 - norm_error(self.dimension))
            wide *= (np.minimum(1.0, bound / norms) / self.step)[:, None]
        found: Integers = np.rint(wide, out=wide).astype(np.int64).sum(axis=0)
        return found

    def gradient(self, total: Integers, noise: Integers) -> Vector:
        """Return the private gradient: sum and noise over the expected batch size.

        Args:
            total: From `total`.
            noise: `discrete_gaussian` of `SIGMA_STEPS`, or zeros where the multiplier is 0.

        Returns:
            float32, shape `[dimension]`.
        """
        scale = self.step / self.expected
        scaled: Vector = np.multiply(total + noise, scale, dtype=np.float64).astype(np.float32)
        return scaled


def drawn_rows(seed: Secret, *, q: float, count: int, step: int) -> npt.NDArray[np.int64]:
    """Return which records take part in a step: each by a coin of its own.

    Args:
        seed: 32 bytes of the `Rand` port, for the sampling of one training alone.
        q: Probability, in (0, 1].
        count: Records, at least 1.
        step: Number of the step, from 0.

    Returns:
        Indices, ascending; there may be none.

    >>> drawn_rows(Secret(bytes(32)), q=1.0, count=3, step=0).tolist()
    [0, 1, 2]
    """
    q = real("sampling.q", q, above=0, most=1)
    if q == 1.0:
        return np.arange(whole("count", count, least=1))
    key = hkdf_sha256(seed.expose(), salt=b"", info=frame(_SAMPLING), size=SECRET_SIZE)
    stream = Mask(Generator.AES_256_CTR, Secret(key), ring=Ring(64))
    words = np.zeros(count, np.uint64)
    stream.add_into(words, start=step * count, sign=1)
    stream.erase()
    return np.flatnonzero(words < np.uint64(int(q * 2.0**64)))


# --- what a training amounts to -------------------------------------------------------------------


def sampling_rate(local: Local, records: int) -> float:
    """Return q: the part of its records that a client draws for a step, in the mean.

    >>> sampling_rate(Local(batch_size=4), 16), sampling_rate(Local(batch_size=32), 16)
    (0.25, 1.0)
    """
    if records < 1:
        raise EmptyClient("a client without training examples")
    return 1.0 if local.batch_size is None else min(1.0, local.batch_size / records)


def steps_of(local: Local, records: int) -> int:
    """Return how many steps a client takes in a round.

    >>> steps_of(Local(steps=100), 16), steps_of(Local(epochs=2, batch_size=5), 16)
    (100, 8)
    """
    if records < 1:
        raise EmptyClient("a client without training examples")
    if local.steps is not None:
        return local.steps
    size = records if local.batch_size is None else min(local.batch_size, records)
    return local.epochs * -(-records // size)


def record_privacy(local: Local) -> RecordPrivacy:
    """Return the record-level terms of local training.

    Raises:
        PlanError: There are none.
    """
    if local.record is None:
        raise PlanError("a plan without record-level privacy")
    return local.record


def record_releases(
    records: int,
    batch_size: int | None,
    steps: int,
    noise_multiplier: float,
    *,
    dimension: int = 0,
) -> dict[Release, int]:
    """Return what some steps release, and how often.

    Args:
        records: n of the client, at least 1.
        batch_size: Expected; None for all records.
        steps: Over all rounds that are asked about.
        noise_multiplier: z.
        dimension: Trained coordinates, whose tables of noise are charged to delta.

    >>> found, = record_releases(1000, 50, 200, 1.1).items()
    >>> found[0].sampling, found[1]
    (Poisson(q=0.05, cap=None, population=None), 200)
    """
    q = sampling_rate(Local(batch_size=batch_size), whole("records", records, least=1))
    one = Release(Mechanism.GAUSSIAN, noise_multiplier, 1.0, Poisson(q), dimension=dimension)
    return {one: whole("steps", steps, least=1)}


@lru_cache(maxsize=256)
def noise_multiplier_for_record(
    epsilon: float,
    delta: float,
    records: int,
    batch_size: int | None,
    steps: int,
    *,
    dimension: int = 0,
) -> float:
    """Return the smallest noise multiplier that keeps one record within epsilon over all steps.

    Args:
        epsilon: Above 0.
        delta: In (0, 1).
        records: n of the client.
        batch_size: Expected; None for all records.
        steps: Over all rounds.
        dimension: As for `record_releases`.

    Raises:
        ConfigError: One is out of range.
        PlanError: No noise is enough.
        MissingExtra: dp-accounting is not installed.
    """

    def releases(z: float) -> Counts:
        return record_releases(records, batch_size, steps, z, dimension=dimension)

    return smallest_noise(releases, epsilon=epsilon, delta=delta, relation=Relation.ADD_REMOVE)


def multiplier_of(local: Local, records: int, *, dimension: int = 0) -> float:
    """Return a client's noise multiplier: the declared one, or the one that meets its epsilon."""
    terms = record_privacy(local)
    if terms.noise_multiplier is not None:
        return terms.noise_multiplier
    if terms.epsilon is None or terms.delta is None or terms.rounds is None:
        raise PlanError("record-level privacy without a noise multiplier or an epsilon")
    steps = steps_of(local, records) * terms.rounds
    return noise_multiplier_for_record(
        terms.epsilon, terms.delta, records, local.batch_size, steps, dimension=dimension
    )


def round_releases(local: Local, records: int, *, dimension: int = 0) -> dict[Release, int]:
    """Return what one round of a client releases."""
    z = multiplier_of(local, records, dimension=dimension)
    steps = steps_of(local, records)
    return record_releases(records, local.batch_size, steps, z, dimension=dimension)


def record_epsilon(
    local: Local, records: int, rounds: int, *, delta: float | None = None, dimension: int = 0
) -> Epsilon:
    """Return the privacy loss of a record of one client after some rounds.

    Args:
        local: Local terms, with `record`.
        records: n of the client.
        rounds: Rounds that it took part in, those that came to nothing included.
        delta: None for that of the terms, else 1e-5.
        dimension: As for `record_releases`.
    """
    terms = record_privacy(local)
    delta = delta or terms.delta or DEFAULT_DELTA
    one = round_releases(local, records, dimension=dimension)
    return epsilon_of(
        {release: count * rounds for release, count in one.items()},
        delta=delta,
        relation=Relation.ADD_REMOVE,
        unit=PrivacyUnit.RECORD,
    )


def worst_record_epsilon(
    local: Local,
    clients: Mapping[ClientId, tuple[int, int]],
    *,
    delta: float | None = None,
    dimension: int = 0,
) -> Epsilon:
    """Return the largest privacy loss of a record over clients.

    It is what a run reports where no person is a record of two clients; where one may be, epsilons
    and deltas of the clients add up instead.

    Args:
        local: Local terms, with `record`.
        clients: Records and rounds of each, at least one client.
        delta: As for `record_epsilon`.
        dimension: As for `record_releases`.
    """
    distinct = set(clients.values())
    found = [record_epsilon(local, n, k, delta=delta, dimension=dimension) for n, k in distinct]
    if not found:
        raise PlanError("a privacy loss over no clients")
    return max(found, key=lambda e: e.value)
