"""Checks, blocks and orders of rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.robust.rows import blocks, row_order, sorted_blocks
from choral.robust.rule import minority


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (1, 65_537), (10, 20_000), (70_000, 3)])
def test_blocks_cover_every_coordinate_once(shape: tuple[int, int]) -> None:
    parts = list(blocks(np.broadcast_to(np.float32(0), shape)))
    assert [i for p in parts for i in range(p.start, p.stop)] == list(range(shape[1]))
    assert all((p.stop - p.start) * shape[0] <= max(65_536, shape[0]) for p in parts)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (3, 7)])
def test_sorting_leaves_the_rows_alone(shape: tuple[int, int], order: str) -> None:
    rows = np.asarray(np.random.default_rng(0).normal(size=shape), np.float32, order=order)
    before = rows.copy()
    for part, ordered in sorted_blocks(rows):
        assert np.array_equal(ordered, np.sort(before[:, part], axis=0))
        ordered[:] = 0
    assert np.array_equal(rows, before)


def test_sorting_makes_one_zero_of_two() -> None:
    for values in itertools.permutations([0.0, -0.0, -0.0]):
        ((_, ordered),) = sorted_blocks(np.array(values, np.float32)[:, None])
        assert not np.signbit(ordered).any()


def test_rows_are_ordered_by_values_then_weight() -> None:
    rows = np.array([[2, 0], [1, 5], [1, 4], [2, 0], [1, 4]], np.float32)
    assert row_order(rows, np.array([3.0, 1.0, 9.0, 2.0, 8.0])) == [4, 2, 1, 3, 0]


def test_rows_that_differ_late_are_told_apart() -> None:
    rows = np.zeros((2, 100_000), np.float32)
    rows[0, -1] = 1
    assert row_order(rows, np.ones(2)) == [1, 0]


def test_rows_without_coordinates_are_ordered_by_weight() -> None:
    assert row_order(np.zeros((2, 0), np.float32), np.array([2.0, 1.0])) == [1, 0]


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_rows_is_a_whole_number_from_one(n: object) -> None:
    with pytest.raises(ConfigError, match="expected a whole number from 1"):
        minority(n)
