"""The coordinate-wise trimmed mean, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from choral.core.errors import PlanError
from choral.robust import Median, TrimmedMean


def trimmed(trim: float, *rows: list[float], weights: list[float] | None = None) -> list[float]:
    stack = np.array(rows, np.float32)
    return TrimmedMean(trim)(stack, np.array(weights or [1] * len(rows), np.float64)).tolist()


def test_one_value_goes_at_each_end_of_each_coordinate() -> None:
    # without 0 and 100: (1 + 2 + 6) / 3;  without -50 and 4: (0 + 1 + 2) / 3
    assert trimmed(0.2, [0, 4], [1, 2], [100, -50], [2, 1], [6, 0]) == [3, 1]


def test_the_number_is_rounded_down() -> None:
    # floor(0.3 * 5) = 1 at each end, divided by the 3 that are left
    assert trimmed(0.3, [0], [1], [2], [6], [50]) == [3]


def test_the_default_takes_a_tenth() -> None:
    # of 0, 1, ..., 8 and 1000: 1 + ... + 8 = 36, over 8
    assert TrimmedMean()(np.array([[i] for i in [*range(9), 1000]], np.float32), np.ones(10)) == 4.5


def test_a_trim_of_zero_is_the_unweighted_mean() -> None:
    assert trimmed(0, [1], [2], [6], weights=[1, 1, 50]) == [3]
    assert trimmed(0, [4]) == [4]


def test_nearly_half_is_the_median() -> None:
    rows = np.random.default_rng(2).normal(size=(8, 30)).astype(np.float32)
    for n in range(3, 9):
        some = rows[:n]
        assert np.array_equal(TrimmedMean(0.4999)(some, np.ones(n)), Median()(some, np.ones(n)))


def test_weights_are_ignored() -> None:
    assert trimmed(0.2, [0], [1], [2], [6], [50], weights=[0, 9, 0, 0, 1]) == [3]


def test_ties_are_interchangeable() -> None:
    assert trimmed(0.2, [0], [0], [3], [9], [9]) == [4]


@pytest.mark.parametrize(
    ("trim", "n", "tolerated"),
    [
        (0.1, 9, 0),
        (0.1, 10, 1),
        (0.1, 29, 2),
        (0.1, 30, 3),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (1 / 3, 3, 1),
        (0.4999999999999, 2, 0),
        (0.49, 3, 1),
        (0, 50, 0),
    ],
)
def test_breakdown(trim: float, n: int, tolerated: int) -> None:
    assert TrimmedMean(trim).breakdown(n) == tolerated


@pytest.mark.parametrize("n", [1, 2, 9])
def test_too_few_rows_are_refused_and_not_averaged(n: int) -> None:
    with pytest.raises(PlanError) as caught:
        TrimmedMean(0.1)(np.zeros((n, 2), np.float32), np.ones(n))
    assert caught.value.message == f"trimmed_mean: {n} row(s), and 0.1 of them at each end is none"
    assert caught.value.hint.startswith("take 10 groups or more")


@pytest.mark.parametrize("trim", [0.01, 0.1, 0.15, 0.3, 1 / 3, 0.34, 0.49])
def test_the_hint_names_the_least_number_that_works(trim: float) -> None:
    rule = TrimmedMean(trim)
    with pytest.raises(PlanError) as caught:
        rule(np.zeros((2, 1), np.float32), np.ones(2))
    least = int(caught.value.hint.split()[1])
    assert (rule.breakdown(least), rule.breakdown(least - 1)) == (1, 0)


def test_it_agrees_with_a_plain_reference_over_many_blocks() -> None:
    rows = np.random.default_rng(3).normal(size=(10, 20_001)).astype(np.float32)
    expected = np.sort(rows.astype(np.float64), axis=0)[2:-2].mean(axis=0)
    result = TrimmedMean(0.2)(rows, np.ones(10))
    assert np.abs(result - expected).max() < 1e-6
