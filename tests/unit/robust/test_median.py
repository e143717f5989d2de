"""The coordinate-wise median, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from choral.robust import Median


def median(*rows: list[float], weights: list[float] | None = None) -> list[float]:
    return Median()(
        np.array(rows, np.float32), np.array(weights or [1] * len(rows), np.float64)
    ).tolist()


def test_an_odd_number_of_rows_gives_the_middle_value_of_each_coordinate() -> None:
    assert median([1, 9, -1], [5, 7, 0], [3, 8, 1]) == [3, 8, 0]


def test_an_even_number_of_rows_gives_the_mean_of_the_two_middle_values() -> None:
    assert median([1, 0], [2, 0], [4, 5], [100, 9]) == [3, 2.5]


def test_one_row_is_itself_and_two_give_their_mean() -> None:
    assert median([1.5, -2]) == [1.5, -2]
    assert median([1, -2], [2, 4]) == [1.5, 1]


def test_ties_are_interchangeable() -> None:
    assert median([2], [2], [2], [9], [0]) == [2]
    assert median([1], [2], [2], [3]) == [2]


def test_weights_are_ignored() -> None:
    assert median([1], [2], [9], weights=[0, 0, 1e300]) == [2]


def test_the_two_middle_values_may_be_the_largest_that_there_are() -> None:
    top = float(np.finfo(np.float32).max)
    assert median([top], [top]) == [top]
    assert median([top], [-top]) == [0]


def test_it_agrees_with_numpy_over_many_blocks() -> None:
    rows = np.random.default_rng(1).normal(size=(11, 20_001)).astype(np.float32)
    assert np.array_equal(Median()(rows, np.ones(11)), np.median(rows, axis=0))


@pytest.mark.parametrize(("n", "tolerated"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (100, 49)])
def test_breakdown(n: int, tolerated: int) -> None:
    assert Median().breakdown(n) == tolerated
