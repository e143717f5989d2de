"""Central noise: what is released lies on the grid, over the expected cohort, with its variance."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from choral.core.errors import PlanError
from choral.core.exact import Encoding, ExactSum, encode
from choral.core.keys import Key
from choral.core.params import Params, Spec
from choral.core.update import Update
from choral.crypto.secret import Secret
from choral.privacy.central import LEAST_SIGMA, Central, noised_mean, noised_total
from choral.privacy.vocabulary import Mechanism, Poisson

SEED = bytes(range(32))
GRID = Encoding(range=4.0, weight_unit=1.0, weight_cap=1.0)


def terms(**changes) -> Central:
    fields = {"bound": 1.0, "multiplier": 1.0, "expected": 10.0, "dimension": 4,
              "step": Central.step_of(GRID)}  # fmt: skip
    return Central(**fields | changes)


def test_the_release_includes_rounding_and_the_twelfth_that_rounding_adds() -> None:
    coarse = terms(step=2.0**-20, multiplier=8.0, dimension=2**20, sampling=Poisson(0.1))
    assert coarse.sensitivity == 1.0 + 2.0**-10
    assert coarse.release.kind is Mechanism.GAUSSIAN
    assert coarse.release.multiplier == pytest.approx(8.0, rel=1e-9)
    assert coarse.release.multiplier < 8.0
    assert coarse.release.sampling == Poisson(0.1)
    assert coarse.release.dimension == 2**20


def test_released_values_lie_on_the_grid() -> None:
    """Support: times the expected cohort, every value is a whole number of grid steps."""
    coarse = terms(step=2.0**-19, expected=8.0, dimension=1000)
    released = noised_mean(np.arange(1000), coarse, Secret(SEED)).astype(np.float64)
    steps = released * 8.0 / coarse.step
    assert (steps == np.round(steps)).all()
    assert len(set((steps % 16).tolist())) == 16, "and every residue comes"


def test_noise_has_its_standard_deviation() -> None:
    wide = terms(dimension=200_000, expected=1.0, multiplier=2.5)
    noise = noised_mean(np.zeros(200_000, np.int64), wide, Secret(SEED))
    assert noise.std() == pytest.approx(wide.sigma, rel=0.01)
    assert abs(noise.mean()) < 5 * wide.sigma / math.sqrt(200_000)


def test_the_sum_is_divided_by_the_expected_and_not_the_realised_cohort() -> None:
    spec = Spec.of(Params({"w": np.zeros(4, np.float32)}))
    total = ExactSum(4, GRID)
    for client in range(7):
        update = Update(np.full(4, 0.5, np.float32), 1.0, {"loss": 1.0})
        total.add(encode(update, spec, GRID, Key.root(client)))
    faint = terms(multiplier=1e-3, expected=10.0)
    released = noised_total(total, faint, Secret(SEED))
    np.testing.assert_allclose(released.mean, 0.35, atol=1e-3)
    assert (released.weight, released.count, released.metrics) == (10.0, 7, {})


def test_a_round_that_is_computed_again_replays_the_same_noise() -> None:
    total = np.arange(4)
    first, again = (noised_mean(total, terms(), Secret(SEED)) for _ in range(2))
    other = noised_mean(total, terms(), Secret(SEED[::-1]))
    assert (first == again).all()
    assert not (first == other).any()


def test_a_grid_too_coarse_for_its_noise_is_refused() -> None:
    with pytest.raises(PlanError, match="grid steps"):
        terms(step=2.0**-10)


def test_terms_for_another_grid_or_length_are_refused() -> None:
    with pytest.raises(PlanError, match="the sum has others"):
        noised_total(ExactSum(4, Encoding()), terms(), Secret(SEED))
    with pytest.raises(PlanError, match=r"expected \[4\]"):
        noised_mean(np.zeros(5, np.int64), terms(), Secret(SEED))


def test_wide_discrete_noise_is_as_good_as_rounded_continuous_noise() -> None:
    """The ratio of their probabilities, in 80 digits, at the least width and far into the tail."""
    with localcontext() as context:
        context.prec = 80
        s2 = Decimal(int(LEAST_SIGMA)) ** 2
        v = s2 - Decimal(1) / 12
        root = (2 * Decimal("3.14159265358979323846264338327950288419716939937510582097")).sqrt()

        def rounded(k: Decimal) -> Decimal:
            """The integral of N(0, v) from k - 1/2 to k + 1/2: Gauss-Legendre with 5 points."""
            points = [(Decimal(0), Decimal(128) / 225)]
            for sign in (1, -1):
                x = (5 + sign * 2 * (Decimal(10) / 7).sqrt()).sqrt() / 3
                w = (322 - sign * 13 * Decimal(70).sqrt()) / 900
                points += [(x, w), (-x, w)]
            total = sum(w * (-((k + x / 2) ** 2) / (2 * v)).exp() for x, w in points)
            return total / 2 / (root * v.sqrt())

        worst = max(
            abs(rounded(k) / ((-(k**2) / (2 * s2)).exp() / (root * s2.sqrt())) - 1)
            for k in (Decimal(int(m * LEAST_SIGMA)) for m in (0, 1, 3, 8, 14))
        )
        assert 0 < worst < Decimal(2) ** -64
