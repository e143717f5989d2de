"""The geometric median: by hand, against a general minimiser, and its edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from choral.core.errors import PlanError
from choral.robust import GeometricMedian

TOP = float(np.finfo(np.float32).max)


def objective(point: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean distance, written without the rule's own code."""
    distances = [math.dist(point.tolist(), row.tolist()) for row in rows]
    return math.fsum(w * d for w, d in zip(weights, distances, strict=True)) / math.fsum(weights)


def stack(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_two_steps_by_hand() -> None:
    # Start 1; distances 1, 0, 4, their weighted median 1; pulls 2 / 1, 2 / 1, 1 / 4.
    rows, weights = stack([0.0], [1.0], [5.0]), np.array([2.0, 2.0, 1.0])
    first = (2 * 0 + 2 * 1 + 5 / 4) / 4.25
    assert GeometricMedian(iterations=1)(rows, weights).tolist() == pytest.approx([first])
    pulls = [2 / first, 2 / (1 - first), 1 / (5 - first)]
    second = (pulls[1] + 5 * pulls[2]) / sum(pulls)
    assert GeometricMedian(iterations=2)(rows, weights).tolist() == pytest.approx([second])


def test_the_fermat_point_of_a_triangle() -> None:
    # An equilateral triangle: its centre. And a row far along the diagonal of a square pulls like
    # a unit force: 1 = 2 s / sqrt(s^2 + 2), s = sqrt(2 / 3) beyond the centre, so 1 + sqrt(1 / 3).
    rows = stack([0, 0], [1, 0], [0.5, math.sqrt(0.75)])
    centre = GeometricMedian(iterations=50)(rows, np.ones(3))
    assert centre.tolist() == pytest.approx([0.5, math.sqrt(0.75) / 3], abs=1e-6)
    rows = stack([0, 0], [2, 0], [0, 2], [2, 2], [9e9, 9e9])
    corner = GeometricMedian(iterations=200)(rows, np.ones(5))
    assert corner.tolist() == pytest.approx([1 + math.sqrt(1 / 3)] * 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_to_the_minimum_that_a_general_minimiser_finds(seed: int) -> None:
    optimise = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(2, size=(9, 3)).astype(np.float32)
    weights = rng.integers(1, 4, 9).astype(np.float64)
    found = optimise.minimize(
        objective,
        rows.mean(axis=0).astype(np.float64),
        (rows, weights),
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000},
    )
    many = objective(GeometricMedian(iterations=1000)(rows, weights), rows, weights)
    assert many <= found.fun * (1 + 1e-4)
    assert many >= found.fun * (1 - 1e-6)
    default = objective(GeometricMedian()(rows, weights), rows, weights)
    assert default <= found.fun * 1.02


def test_eight_steps_are_near_in_many_dimensions() -> None:
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(10, 500)).astype(np.float32)
    rows[:3] += 4
    far = GeometricMedian(iterations=1000)(rows, np.ones(10)).astype(np.float64)
    near = GeometricMedian()(rows, np.ones(10))
    spread = np.linalg.norm(rows[3:] - far, axis=1).mean()
    assert np.linalg.norm(near - far) < 1e-3 * spread


def test_more_steps_never_go_up() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        rows = rng.standard_t(1, size=(7, 3)).astype(np.float32)
        weights = rng.uniform(0.5, 2, 7)
        points = [GeometricMedian(iterations=i)(rows, weights) for i in (1, 2, 4, 8, 30)]
        values = [objective(point, rows, weights) for point in points]
        for earlier, later in itertools.pairwise(values):
            assert later <= earlier * (1 + 1e-5) + 1e-6


def test_a_start_that_is_a_row_does_not_hold_the_steps() -> None:
    rows = stack([0, 0], [10, 1], [10, -1], [-1, 10], [-1, -10])
    assert np.median(rows, axis=0).tolist() == rows[0].tolist()
    # The others pull at that row with about 1.8 against its 1, so it is not the geometric median.
    point = np.zeros(2)
    for _ in range(8):
        pulls = 1 / np.maximum(1e-6, np.linalg.norm(point - rows, axis=1))
        point = pulls @ rows / pulls.sum()
    assert np.abs(point).max() < 1e-3, "steps that begin with nu stay"
    result = GeometricMedian()(rows, np.ones(5))
    least = objective(GeometricMedian(iterations=1000)(rows, np.ones(5)), rows, np.ones(5))
    assert result[0] > 1
    assert objective(result, rows, np.ones(5)) < 1.01 * least


def test_a_weight_counts_as_so_many_rows() -> None:
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(5, 7)).astype(np.float32)
    weights = np.array([1.0, 3.0, 2.0, 1.0, 2.0])
    twice = np.repeat(rows, weights.astype(int), axis=0)
    one = GeometricMedian()(rows, weights)
    other = GeometricMedian()(twice, np.ones(len(twice)))
    assert np.allclose(one, other, atol=1e-6)
    for power in (-1022, 1022):  # the sum of the latter is beyond float64
        assert np.array_equal(one, GeometricMedian()(rows, weights * 2.0**power))
    assert not np.allclose(one, GeometricMedian()(rows, np.ones(5)), atol=1e-3)


def test_equal_weights_take_the_short_way_to_the_same_start() -> None:
    rows = np.random.default_rng(7).normal(size=(6, 9)).astype(np.float32)
    nobody = np.vstack([rows, np.zeros((1, 9), np.float32)])
    short = GeometricMedian()(rows, np.ones(6))
    long = GeometricMedian()(nobody, np.array([1.0] * 6 + [0.0]))
    assert np.allclose(short, long, rtol=1e-6, atol=1e-7)


def test_a_row_without_weight_has_no_effect_however_far() -> None:
    rows = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)
    weights = np.array([1.0, 2.0, 3.0, 1.5])
    alone = GeometricMedian()(rows, weights)
    far = np.vstack([rows, np.full((9, 3), TOP, np.float32)])
    assert np.allclose(alone, GeometricMedian()(far, np.append(weights, np.zeros(9))), atol=1e-6)


def test_less_than_half_of_the_weight_is_tolerated_in_however_many_rows() -> None:
    good = np.random.default_rng(3).uniform(-1, 1, size=(2, 3)).astype(np.float32)
    rows = np.vstack([good, np.full((8, 3), 1e30, np.float32)])
    weights = np.array([10.0, 10.0] + [1.0] * 8)  # 8 of 28
    assert np.abs(GeometricMedian()(rows, weights)).max() < 10
    assert np.abs(GeometricMedian()(rows, np.ones(10))).max() > 1e29


@pytest.mark.parametrize("iterations", [1, 2, 8, 100])
@pytest.mark.parametrize("distance", [1e2, 1e10, TOP])
@pytest.mark.parametrize(("bad", "n"), [(1, 3), (2, 5), (4, 9), (3, 10), (4, 10)])
def test_the_bound_that_the_docstring_gives(
    iterations: int, distance: float, bad: int, n: int
) -> None:
    rows = np.random.default_rng(n).uniform(-1, 1, size=(n, 5)).astype(np.float32)
    rows[:bad] = distance
    good = rows[bad:]
    diagonal = np.linalg.norm(good.max(axis=0) - good.min(axis=0))
    start = np.median(rows, axis=0)
    assert (good.min(axis=0) <= start).all()
    assert (start <= good.max(axis=0)).all()
    result = GeometricMedian(iterations)(rows, np.ones(n)).astype(np.float64)
    assert np.linalg.norm(result - start) <= 2.5 * diagonal / (1 - 2 * bad / n)


def test_one_row_is_itself_and_two_equal_ones_give_the_mean() -> None:
    assert GeometricMedian()(stack([1.5, -2]), np.array([3.0])).tolist() == [1.5, -2]
    assert GeometricMedian()(stack([1, -2], [2, 4]), np.ones(2)).tolist() == [1.5, 1]


def test_the_heavier_of_two_rows_wins() -> None:
    result = GeometricMedian()(stack([1, 0], [2, 4]), np.array([1.0, 1.25]))
    assert np.abs(result - [2, 4]).max() <= 1e-6


def test_rows_that_coincide_with_most_of_the_weight_win_without_a_division_by_zero() -> None:
    with np.errstate(all="raise", under="ignore"):
        result = GeometricMedian()(stack([2, 3], [2, 3], [2, 3], [-7, 1], [40, 0]), np.ones(5))
    assert np.abs(result - [2, 3]).max() <= 1e-6


def test_smoothing_is_the_least_distance_that_counts() -> None:
    rows = stack([0], [1], [5])
    wide = GeometricMedian(iterations=100, smoothing=1e6)(rows, np.ones(3))
    assert wide.tolist() == [2.0], "when no distance counts, it is the mean"


def test_it_ends_when_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from choral.robust import geometric_median as module

    passes = []
    original = module._distances
    monkeypatch.setattr(module, "_distances", lambda *a: passes.append(1) or original(*a))
    GeometricMedian(iterations=1000)(np.ones((4, 3), np.float32), np.ones(4))
    assert len(passes) == 2
    passes.clear()
    rows = np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32)
    long = GeometricMedian(iterations=1000)(rows, np.ones(10))
    assert len(passes) < 60
    assert np.array_equal(long, GeometricMedian(iterations=len(passes))(rows, np.ones(10)))
    passes.clear()
    GeometricMedian(iterations=5)(rows, np.ones(10))
    assert len(passes) == 5


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(PlanError, match="no row of 3 has a weight above 0") as caught:
        GeometricMedian()(stack([1], [2], [3]), np.zeros(3))
    assert "weigh the rows equally" in caught.value.hint


@pytest.mark.parametrize(("n", "tolerated"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (100, 49)])
def test_breakdown(n: int, tolerated: int) -> None:
    assert GeometricMedian().breakdown(n) == tolerated
