"""The laws that every robust rule keeps. A new one enters by its line in `RULES` and in `TABLE`."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from choral.core.errors import NotFinite, PlanError, UpdateRejected, WrongShape
from choral.core.transform import Kind, check_chain
from choral.robust import RULES, Rule, build

TOP = float(np.finfo(np.float32).max)


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: Key of `RULES`.
        arguments: Arguments of its class.
        hull: Whether every coordinate stays between the least and the greatest of the good rows.
    """

    name: str
    arguments: dict
    hull: bool

    @property
    def rule(self) -> Rule:
        return build(self.name, **self.arguments)


TABLE = [
    Row("geometric_median", {}, hull=False),
    Row("geometric_median", {"iterations": 1}, hull=False),
    Row("geometric_median", {"iterations": 50, "smoothing": 1e-3}, hull=False),
    Row("median", {}, hull=True),
    Row("trimmed_mean", {}, hull=True),
    Row("trimmed_mean", {"trim": 0.0}, hull=True),
    Row("trimmed_mean", {"trim": 0.25}, hull=True),
    Row("trimmed_mean", {"trim": 0.49}, hull=True),
]
every = pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name}-{row.arguments}")
robust = pytest.mark.parametrize(
    "row", [r for r in TABLE if r.arguments.get("trim") != 0], ids=lambda r: f"{r.name}-{r[1]}"
)

# A third for each line of the table: the lines have much in common.
searched = settings(max_examples=settings.default.max_examples // 3)


def frozen(values: object) -> np.ndarray:
    """Rows that nobody can write to."""
    stack = np.array(values, np.float32)
    stack.flags.writeable = False
    return stack


def draws(n: int, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of normal draws, and weights from 0.5 to 2; both read-only."""
    rng = np.random.default_rng(seed)
    stack, weights = rng.normal(size=(n, size)), rng.uniform(0.5, 2, n)
    weights.flags.writeable = False
    return frozen(stack), weights


def works_with(rule: Rule, n: int) -> bool:
    """Whether a rule takes n rows: it may say no where it would protect against nothing."""
    try:
        rule(frozen(np.zeros((n, 1))), np.ones(n))
    except PlanError:
        assert rule.breakdown(n) == 0
        return False
    return True


def stacks(row: Row, least: float, most: float) -> st.SearchStrategy[np.ndarray]:
    """Stacks of as many rows as the rule takes."""
    numbers = [n for n in range(1, 13) if works_with(row.rule, n)]
    shapes = st.tuples(st.sampled_from(numbers), st.integers(1, 3))
    values = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(least, most, width=32))
    return shapes.flatmap(lambda s: hnp.arrays(np.float32, s, elements=values)).map(frozen)


def masses(n: int) -> st.SearchStrategy[np.ndarray]:
    """Weights whose sums are exact, some of them 0, but not all."""
    some = st.sampled_from([1.0, 0.0, 2.0, 7.0, 0.25])
    return hnp.arrays(np.float64, n, elements=some).map(lambda w: w if w.any() else w + 1)


def test_every_rule_enters() -> None:
    assert {row.name for row in TABLE} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_the_name_is_the_key_and_every_argument_has_a_default(name: str) -> None:
    assert build(name).name == name


@every
def test_a_rule_is_a_value(row: Row) -> None:
    assert row.rule == build(row.name, **row.arguments)
    assert hash(row.rule) == hash(build(row.name, **row.arguments))
    assert not hasattr(row.rule, "__dict__"), "slots=True is missing"
    for field in dataclasses.fields(row.rule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(row.rule, field.name, 0)


@every
def test_a_rule_is_a_reducer_that_reads_each_row(row: Row) -> None:
    assert row.rule.kind is Kind.EACH
    check_chain([], row.rule, "robust")
    with pytest.raises(PlanError, match=f"`{row.name}` needs every client's update"):
        check_chain([], row.rule, "secure")


@every
@pytest.mark.parametrize("size", [0, 1, 7, 70_000])
def test_shape_and_dtype_and_nothing_given_is_changed(row: Row, size: int) -> None:
    stack, weights = draws(10, size)
    before = stack.tobytes(), weights.tobytes()
    result = row.rule(stack, weights)
    assert (result.dtype, result.shape) == (np.float32, (size,))
    assert result.flags.writeable
    assert not np.shares_memory(result, stack)
    assert (stack.tobytes(), weights.tobytes()) == before


@every
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_are_changed_no_more_than_many(row: Row, n: int) -> None:
    if not works_with(row.rule, n):
        return
    for size in (1, 5):
        stack, weights = draws(n, size)
        before = stack.tobytes()
        assert not np.shares_memory(row.rule(stack, weights), stack)
        assert row.rule(np.asfortranarray(stack), weights).tobytes()
        assert stack.tobytes() == before


@every
def test_the_layout_in_memory_does_not_matter(row: Row) -> None:
    stack, weights = draws(10, 1000)
    wide = np.zeros((20, 2000), np.float32)
    wide[::2, ::2] = stack
    expected = row.rule(stack, weights).tobytes()
    assert row.rule(np.asfortranarray(stack), weights).tobytes() == expected
    assert row.rule(wide[::2, ::2], weights).tobytes() == expected


@every
@searched
@given(data=st.data())
def test_the_order_of_the_rows_changes_no_bit(row: Row, data: st.DataObject) -> None:
    stack = data.draw(stacks(row, -1e4, 1e4))
    n = len(stack)
    weights = data.draw(masses(n))
    order = data.draw(st.permutations(range(n)))
    expected = row.rule(stack, weights)
    assert row.rule(stack[order], weights[order]).tobytes() == expected.tobytes()
    assert np.isfinite(expected).all()


@every
def test_zeros_of_either_sign_give_zero(row: Row) -> None:
    for n in (1, 2, 3, 10, 11):
        if works_with(row.rule, n):
            signs = (-1.0) ** np.arange(n * 5).reshape(n, 5)
            for stack in (
                frozen(signs * 0),
                frozen(signs[::-1] * 0),
                frozen(np.full((n, 5), -0.0)),
            ):
                assert row.rule(stack, np.ones(n)).tobytes() == bytes(20)


@every
def test_the_order_of_many_wild_rows_changes_no_bit(row: Row) -> None:
    """Sums of values of all sizes, whose float sum depends on the order."""
    rng = np.random.default_rng(5)
    stack = (rng.normal(size=(24, 40)) * 10.0 ** rng.integers(-12, 12, (24, 40))).astype(np.float32)
    stack[5] = stack[9]
    stack[:, 3] = 0
    weights = rng.uniform(0.1, 3, 24)
    expected = row.rule(stack, weights).tobytes()
    for _ in range(30):
        order = rng.permutation(24)
        assert row.rule(stack[order], weights[order]).tobytes() == expected


@every
@searched
@given(data=st.data())
def test_the_result_moves_with_the_rows(row: Row, data: st.DataObject) -> None:
    stack = data.draw(stacks(row, -100, 100))
    n, size = stack.shape
    weights = data.draw(masses(n))
    # On a grid of 2^-10, below 2^13: shifted rows are exact in float32.
    stack = frozen(np.round(stack * 1024) / 1024)
    shift = data.draw(hnp.arrays(np.int64, size, elements=st.integers(-4000, 4000)))
    moved = row.rule(frozen(stack + shift), weights)
    assert np.abs(moved - shift - row.rule(stack, weights)).max() < 2e-3


@every
@searched
@given(data=st.data(), power=st.integers(-19, 20), sign=st.sampled_from([1, -1]))
def test_the_result_scales_with_the_rows(
    row: Row, data: st.DataObject, power: int, sign: int
) -> None:
    stack = data.draw(stacks(row, -100, 100))
    stack = frozen(np.where(np.abs(stack) < 1e-3, 0, stack))
    weights = data.draw(masses(len(stack)))
    scale = sign * 2.0**power
    scaled = row.rule
    if row.name == "geometric_median":  # its smoothing has the units of the rows
        nu = row.rule.smoothing
        scaled = dataclasses.replace(row.rule, smoothing=nu * 2.0**power)
    expected = row.rule(stack, weights) * scale
    difference = scaled(frozen(stack * scale), weights) - expected
    assert np.abs(difference).max() <= 1e-4 * abs(scale)


@every
@searched
@given(values=hnp.arrays(np.float32, 4, elements=st.floats(-TOP, TOP, width=32)))
def test_equal_rows_give_that_row(row: Row, values: np.ndarray) -> None:
    for n in (1, 2, 3, 10, 13):
        if works_with(row.rule, n):
            result = row.rule(frozen([values] * n), np.linspace(1, 2, n))
            assert np.array_equal(result, values)


@every
@searched
@given(data=st.data())
def test_the_result_is_between_the_least_and_the_greatest(row: Row, data: st.DataObject) -> None:
    stack = data.draw(stacks(row, -TOP, TOP))
    result = row.rule(stack, data.draw(masses(len(stack))))
    assert np.isfinite(result).all()
    if row.hull:
        assert (stack.min(axis=0) <= result).all()
        assert (result <= stack.max(axis=0)).all()


@every
def test_weights_count_or_they_do_not(row: Row) -> None:
    stack, weights = draws(10, 20)
    same = np.array_equal(row.rule(stack, weights), row.rule(stack, np.ones(10)))
    assert same is not row.rule.weighted
    assert np.allclose(row.rule(stack, weights * 1000), row.rule(stack, weights), atol=1e-6)


def wrecked(good: np.ndarray, bad: int, shape: str) -> np.ndarray:
    """The good rows and some bad ones, huge and finite, in one of three ways."""
    size = good.shape[1]
    rows = {
        "one way": np.full((bad, size), TOP),
        "apart": np.outer((-1.0) ** np.arange(bad), np.full(size, 1e30)),
        "by one coordinate": np.pad(np.full((bad, 1), -1e20), ((0, 0), (0, size - 1))),
    }
    return frozen(np.vstack([good, rows[shape]]))


@robust
@pytest.mark.parametrize("shape", ["one way", "apart", "by one coordinate"])
@pytest.mark.parametrize("n", [3, 4, 5, 10, 11, 25])
def test_as_many_bad_rows_as_it_tolerates_do_little(row: Row, n: int, shape: str) -> None:
    tolerated = row.rule.breakdown(n)
    assert 0 <= tolerated < n / 2
    for bad in range(1, tolerated + 1):
        good, _ = draws(n - bad, 6, seed=n)
        result = row.rule(wrecked(good, bad, shape), np.ones(n)).astype(np.float64)
        least, greatest = good.min(axis=0), good.max(axis=0)
        if row.hull:
            assert (least <= result).all()
            assert (result <= greatest).all()
        else:
            nearest = np.clip(result, least, greatest)
            spread = np.linalg.norm(greatest - least)
            assert np.linalg.norm(result - nearest) <= 2.5 * spread / (1 - 2 * bad / n)


@every
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 11, 25])
def test_one_more_bad_row_breaks_it(row: Row, n: int) -> None:
    if not works_with(row.rule, n):
        return
    bad = row.rule.breakdown(n) + 1
    good, _ = draws(n - bad, 6, seed=n)
    result = row.rule(wrecked(good, bad, "one way"), np.ones(n))
    assert np.abs(result).min() > 1e30


@every
def test_bad_input_is_refused_by_name(row: Row) -> None:
    rule, stack, weights = row.rule, np.zeros((10, 2), np.float32), np.ones(10)
    cases: list[tuple[type[Exception], str, object, object]] = [
        (WrongShape, "rows of type float64", stack.astype(np.float64), weights),
        (WrongShape, "rows of type list", stack.tolist(), weights),
        (WrongShape, r"rows of shape \[20\]", stack.reshape(-1), weights),
        (WrongShape, "weights of type int64", stack, weights.astype(np.int64)),
        (WrongShape, r"weights of shape \[10, 1\]", stack, weights[:, None]),
        (WrongShape, "9 weights for 10 rows", stack, weights[:9]),
        (PlanError, "no rows, expected at least 1", stack[:0], weights[:0]),
    ]
    for error, message, rows, masses in cases:
        with pytest.raises(error, match=f"{row.name}: {message}"):
            rule(rows, masses)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(row: Row, value: float) -> None:
    for index, column in itertools.product((0, 7, 9), (0, 69_999)):
        stack = np.zeros((10, 70_000), np.float32)
        stack[index, column] = value
        with pytest.raises(NotFinite, match=f"{row.name}: row {index} has NaN or infinity"):
            row.rule(stack, np.ones(10))


@every
def test_a_bad_weight_is_refused_with_its_row_also_where_weights_are_ignored(row: Row) -> None:
    stack = np.zeros((10, 2), np.float32)
    for value, error in ((np.nan, NotFinite), (np.inf, NotFinite), (-1.0, UpdateRejected)):
        weights = np.ones(10)
        weights[4] = value
        with pytest.raises(error, match=f"{row.name}: weight {value} of row 4"):
            row.rule(stack, weights)


@every
def test_memory_beyond_the_stack_and_the_result_is_small(row: Row) -> None:
    stack, weights = draws(10, 300_000)
    row.rule(stack, weights)
    tracemalloc.start()
    row.rule(stack, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - 4 * 300_000 < 3 << 20, "the stack has 12 MB"


@robust
def test_breakdown_grows_with_the_rows_and_stays_below_half(row: Row) -> None:
    tolerated = [row.rule.breakdown(n) for n in range(1, 200)]
    assert all(0 <= b - a <= 1 for a, b in itertools.pairwise(tolerated))
    assert all(k < n / 2 for n, k in enumerate(tolerated, start=1))
    assert tolerated[-1] > 0
