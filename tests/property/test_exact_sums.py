"""Laws of exact sums: no order, no sharding and no block size changes a bit; the bounds hold."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from choral.core.errors import NotFinite, OutOfRange, UpdateRejected
from choral.core.exact import Contribution, Encoding, ExactSum, Total, encode
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.update import Update

F32 = np.float32
SIZE = 5
SPEC = Spec.of({"w": np.zeros(SIZE, F32)})
laws = settings(derandomize=True, deadline=None, max_examples=150)

int32 = st.integers(-(2**31), 2**31 - 1)
contributions = st.builds(
    lambda vector, weight, metrics: Contribution(np.array(vector, np.int32), weight, metrics),
    st.lists(int32, min_size=SIZE, max_size=SIZE),
    st.integers(0, 2**30),
    st.dictionaries(st.sampled_from(["loss", "accuracy", "norm"]), st.integers(-(2**62), 2**62)),
)


def sum_of(items: Sequence[Contribution], encoding: Encoding, size: int = SIZE) -> ExactSum:
    total = ExactSum(size, encoding)
    for item in items:
        total.add(item)
    return total


def bits(total: ExactSum) -> tuple[Any, ...]:
    """Everything in a sum and in its decoded mean, so that equal means equal to the bit."""
    state, found = total.state(), total.total()
    return (
        state["vector"].tolist(),
        state["weight"],
        state["count"],
        list(state["metrics"].items()),
        found.mean.tobytes(),
        found.weight.hex(),
        found.count,
        [(name, value.hex()) for name, value in found.metrics.items()],
    )


def merged_in_any_tree(
    data: st.DataObject, items: list[Contribution], encoding: Encoding
) -> ExactSum:
    """Shuffle, deal to shards, and merge the shards pairwise until one is left."""
    order = data.draw(st.permutations(items))
    shards = [ExactSum(SIZE, encoding) for _ in range(data.draw(st.integers(1, 5)))]
    for item in order:
        shards[data.draw(st.integers(0, len(shards) - 1))].add(item)
    while len(shards) > 1:
        taken = shards.pop(data.draw(st.integers(0, len(shards) - 1)))
        shards[data.draw(st.integers(0, len(shards) - 1))].merge(taken)
    return shards[0]


# --- Order and sharding --------------------------------------------------------------------------


@given(
    st.lists(contributions, max_size=8), st.sampled_from([Encoding(), Encoding(1, 3, 4)]), st.data()
)
@laws
def test_any_order_and_any_tree_of_shards_give_the_same_bits(
    items: list[Contribution], encoding: Encoding, data: st.DataObject
) -> None:
    expected = bits(sum_of(items, encoding))
    assert bits(merged_in_any_tree(data, items, encoding)) == expected


@given(st.lists(contributions, max_size=8))
@laws
def test_the_state_is_the_integer_sum(items: list[Contribution]) -> None:
    state = sum_of(items, Encoding()).state()
    assert state["vector"].tolist() == [
        sum(int(item.vector[i]) for item in items) for i in range(SIZE)
    ]
    assert state["weight"] == sum(item.weight for item in items)
    assert state["count"] == len(items)
    for name in ("loss", "accuracy", "norm"):
        with_it = [item for item in items if name in item.metrics]
        expected = (sum(i.metrics[name] for i in with_it), sum(i.weight for i in with_it))
        assert state["metrics"].get(name, (0, 0)) == expected


@given(st.integers(1, 300), st.randoms(use_true_random=False), st.integers(1, 7))
@laws
def test_one_hot_contributions_are_counted_once_each(count: int, shuffle: Any, shards: int) -> None:
    """Client i moves coordinate i by 1. Lost, it would leave 0; counted twice, 2."""
    spec, encoding = Spec.of({"w": np.zeros(count, F32)}), Encoding(256, 1)
    sent = []
    for i in range(count):
        one_hot = np.zeros(count, F32)
        one_hot[i] = 1.0
        sent.append(encode(Update(one_hot, 1.0), spec, encoding, Key.root(0).fold(i)))
    shuffle.shuffle(sent)
    whole = ExactSum(count, encoding)
    for shard in range(shards):
        whole.merge(sum_of(sent[shard::shards], encoding, count))
    found = whole.total()
    assert set(whole.state()["vector"].tolist()) == {2**23}
    assert (found.mean * F32(count)).tolist() == pytest.approx([1.0] * count, rel=1e-6)
    assert (found.count, found.weight) == (count, float(count))


# --- Error bound ---------------------------------------------------------------------------------


def exact_mean(updates: list[Update], weights: list[Fraction]) -> list[Fraction]:
    whole = sum(weights)
    columns = zip(*(u.delta.tolist() for u in updates), strict=True)
    return [
        sum((w * Fraction(x) for w, x in zip(weights, column, strict=True)), Fraction(0)) / whole
        for column in columns
    ]


def run(updates: list[Update], encoding: Encoding, key: Key) -> tuple[list[Contribution], Total]:
    sent = [encode(u, SPEC, encoding, key.fold(i)) for i, u in enumerate(updates)]
    return sent, sum_of(sent, encoding).total()


def assert_within_bound(found: Total, expected: list[Fraction], encoding: Encoding) -> None:
    """The stated bound, half a float32 step, and 2^-50 for the float64 in between."""
    bound = Fraction(encoding.error_bound(found.count, found.weight))
    for got, want in zip(found.mean, expected, strict=True):
        rounding = Fraction(float(np.spacing(np.abs(got)))) / 2
        slack = rounding + (abs(want) + bound) * Fraction(1, 2**50)
        assert abs(Fraction(float(got)) - want) <= bound + slack


moves = st.lists(
    st.floats(-200, 200, width=32), min_size=SIZE, max_size=SIZE
).map(lambda x: np.array(x, F32))  # fmt: skip
encodings = st.sampled_from([Encoding(256, 1024), Encoding(512, 2000), Encoding(2.0**20, 1, 1000)])
"""Grids on which a coordinate of 200 with a weight of 1000 is in range."""


@given(
    st.lists(st.builds(Update, moves, st.integers(0, 1000)), min_size=1, max_size=6),
    encodings,
    st.integers(0, 2**64 - 1),
)
@laws
def test_the_mean_is_within_the_stated_bound(
    updates: list[Update], encoding: Encoding, seed: int
) -> None:
    """Numbers of examples are multiples of unit / 2^30, so the bound is against the true mean."""
    weights = [Fraction(u.weight) for u in updates]
    assume(sum(weights) > 0)
    _, found = run(updates, encoding, Key.root(seed))
    assert Fraction(found.weight) == sum(weights)
    assert_within_bound(found, exact_mean(updates, weights), encoding)


@given(
    st.lists(st.tuples(moves, st.integers(0, 2**39)), min_size=1, max_size=6),
    st.sampled_from([2.0**-20, 0.5, 1.0, 1024.0, 2.0**20]),
    st.integers(0, 2**64 - 1),
)
@laws
def test_the_bound_holds_for_every_multiple_of_the_smallest_weight(
    clients: list[tuple[np.ndarray, int]], unit: float, seed: int
) -> None:
    """Weights up to 512 units, in steps of unit / 2^30: none of them is rounded."""
    assume(any(multiple for _, multiple in clients))
    encoding = Encoding(2.0**20, unit, 1024 * unit)
    updates = [Update(x, multiple * unit / 2**30) for x, multiple in clients]
    sent, found = run(updates, encoding, Key.root(seed))
    assert [c.weight for c in sent] == [multiple for _, multiple in clients]
    weights = [multiple * Fraction(unit) / 2**30 for _, multiple in clients]
    assert_within_bound(found, exact_mean(updates, weights), encoding)


@given(
    st.lists(st.builds(Update, moves, st.floats(0, 1000)), min_size=1, max_size=6),
    encodings,
    st.integers(0, 2**64 - 1),
)
@laws
def test_fractional_weights_count_as_their_nearest_multiple(
    updates: list[Update], encoding: Encoding, seed: int
) -> None:
    """Other weights are rounded to multiples of unit * 2^-30 first; the bound is against those."""
    updates = [u for u in updates if u.weight == 0 or u.weight * 2**29 >= encoding.weight_unit]
    assume(sum(u.weight for u in updates) > 0)
    sent, found = run(updates, encoding, Key.root(seed))
    step = Fraction(encoding.weight_unit) / 2**30
    weights = [c.weight * step for c in sent]
    assert all(
        abs(w - Fraction(u.weight)) <= step / 2 for w, u in zip(weights, updates, strict=True)
    )
    assert_within_bound(found, exact_mean(updates, weights), encoding)


def test_the_bound_is_not_slack_by_more_than_its_count() -> None:
    """One client of full weight: an error of nearly one grid step does occur."""
    encoding = Encoding(256, 1)
    x = np.full(1000, 0.5 * encoding.grid, F32)
    spec = Spec.of({"w": x})
    sent = encode(Update(x, 1.0), spec, encoding, Key.root(0))
    found = sum_of([sent], encoding, 1000).total()
    errors = np.abs(found.mean - x)
    assert errors.max() == 0.5 * encoding.grid
    assert errors.max() <= encoding.error_bound(1, 1.0) == encoding.grid


# --- Unbiasedness --------------------------------------------------------------------------------

DRAWS = 1 << 20
ALARM = 1e-9


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("steps", [0.001, 0.25, 0.5, 0.9, 12.75, -0.001, -0.25, -7.6])
def test_rounding_is_unbiased(steps: float, weight: float) -> None:
    """The mean of 2^20 roundings of one value.

    Each is in an interval of length 1, so by Hoeffding's inequality its mean is off by more than
    sqrt(ln(2 / p) / (2 n)) = 0.0032 grid steps with a probability below p = 1e-9, for each of the
    16 cases; beside it stands the bias of at most 2^-17 that 16-bit draws leave.
    """
    encoding = Encoding(256, 1)
    x = np.full(DRAWS, steps * encoding.grid, F32)
    key = Key.root(2026).fold(str(steps), str(weight))
    sent = encode(Update(x, weight), Spec.of({"w": x}), encoding, key)
    expected = float(x[0]) / encoding.grid * sent.weight / 2**30
    assert set(np.unique(sent.vector)) <= {math.floor(expected), math.floor(expected) + 1}
    slack = math.sqrt(math.log(2 / ALARM) / (2 * DRAWS)) + 2.0**-17
    assert abs(sent.vector.mean() - expected) <= slack


def test_roundings_of_neighbours_and_of_clients_are_independent() -> None:
    """Correlation of 2^20 pairs of roundings of 1/2, which are fair coins.

    By Hoeffding's inequality a fair sample is off by more than sqrt(2 ln(2 / p) / n) = 0.0064
    with a probability below p = 1e-9, for each of the three pairs.
    """
    encoding = Encoding(256, 1)
    x = np.full(DRAWS + 1, 0.5 * encoding.grid, F32)
    spec = Spec.of({"w": x})
    a, b, c = (
        2.0 * encode(Update(x, 1.0), spec, encoding, Key.root(2026).fold(*name)).vector - 1
        for name in ((1, "a"), (1, "b"), (2, "a"))
    )
    slack = math.sqrt(2 * math.log(2 / ALARM) / DRAWS)
    for one, two in ((a[:-1], a[1:]), (a, b), (a, c)):
        assert abs(float(np.mean(one * two))) <= slack


# --- Range ---------------------------------------------------------------------------------------


@given(
    st.integers(-20, 40),
    st.integers(1, 2**30),
    st.integers(0, SIZE - 1),
    st.sampled_from([-1, 1]),
)
@laws
def test_just_inside_and_just_beyond_the_range(power: int, weight: int, at: int, sign: int) -> None:
    """The border for |w * x| is range - grid, found among float32 numbers by exact arithmetic."""
    encoding = Encoding(2.0**power, 1)
    share = Fraction(weight, 2**30)
    border = (Fraction(encoding.range) - Fraction(encoding.grid)) / share
    x = F32(min(float(border), 3e38))
    assume(Fraction(float(x)) < Fraction(2) ** 127)
    while Fraction(float(x)) * share > Fraction(encoding.range) - Fraction(encoding.grid):
        x = np.nextafter(x, F32(0))
    delta = np.zeros(SIZE, F32)
    for inside in (x, np.nextafter(x, F32(0))):
        delta[at] = sign * inside
        sent = encode(Update(delta, float(share)), SPEC, encoding, Key.root(0))
        ideal = sign * Fraction(float(inside)) * share / Fraction(encoding.grid)
        assert abs(int(sent.vector[at]) - ideal) <= 1
    beyond = np.nextafter(np.nextafter(x, F32(np.inf)), F32(np.inf))
    delta[at] = sign * beyond
    with pytest.raises(OutOfRange, match="tensor `w` moved by"):
        encode(Update(delta, float(share)), SPEC, encoding, Key.root(0))


@given(
    st.integers(0, SIZE - 1),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from([0.0, 1.0, 65536.0]),
)
@laws
def test_what_is_not_finite_is_refused_wherever_it_stands(
    at: int, bad: float, weight: float
) -> None:
    delta = np.zeros(SIZE, F32)
    delta[at] = bad
    with pytest.raises(NotFinite, match="tensor `w`"):
        encode(Update(delta, weight), SPEC, Encoding(), Key.root(0))
    with pytest.raises(NotFinite, match="metric `loss`"):
        encode(Update(np.zeros(SIZE, F32), weight, {"loss": bad}), SPEC, Encoding(), Key.root(0))
    with pytest.raises(NotFinite, match="weight"):
        encode(Update(np.zeros(SIZE, F32), bad), SPEC, Encoding(), Key.root(0))


@given(
    st.floats(2.0**-19, 2.0**39), st.floats(2.0**-20, 2.0**20, exclude_max=True), st.floats(0, 2)
)
@laws
def test_the_weight_cap(unit: float, units: float, caps: float) -> None:
    cap = min(max(unit * units, 2.0**-20), 2.0**40)
    encoding, weight = Encoding(256, unit, cap), caps * cap
    total = ExactSum(SIZE, encoding)
    update = Update(np.zeros(SIZE, F32), weight)
    if weight > encoding.weight_cap:
        with pytest.raises(OutOfRange, match="above the round's cap"):
            encode(update, SPEC, encoding, Key.root(0))
    elif weight == 0 or weight * 2**29 > encoding.weight_unit:
        sent = encode(update, SPEC, encoding, Key.root(0))
        ideal = Fraction(weight) / Fraction(encoding.weight_unit) * 2**30
        assert abs(sent.weight - ideal) <= Fraction(1, 2)
        total.add(sent)
        assert total.weight == sent.weight


@given(st.floats(max_value=0, exclude_max=True, allow_nan=False))
@laws
def test_a_negative_weight_is_refused(weight: float) -> None:
    with pytest.raises(UpdateRejected, match="weight"):
        encode(Update(np.zeros(SIZE, F32), weight), SPEC, Encoding(), Key.root(0))


# --- Zero weights, metrics -----------------------------------------------------------------------


@given(st.lists(moves, max_size=5), st.integers(0, 9))
@laws
def test_zero_weights_leave_the_mean_alone(silent: list[np.ndarray], seed: int) -> None:
    encoding, key = Encoding(256, 4), Key.root(seed)
    mine = encode(Update(np.arange(SIZE, dtype=F32), 3, {"loss": 0.5}), SPEC, encoding, key)
    others = [encode(Update(x, 0.0, {"loss": 9.0}), SPEC, encoding, key) for x in silent]
    nothing = sum_of(others, encoding).total()
    assert nothing.mean.tolist() == [0.0] * SIZE
    assert (nothing.weight, nothing.count, nothing.metrics) == (0.0, len(silent), {})
    found = sum_of([*others, mine], encoding).total()
    assert found.mean.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (found.weight, found.count, found.metrics) == (3.0, len(silent) + 1, {"loss": 0.5})


reports = st.dictionaries(st.sampled_from("abc"), st.floats(-1e3, 1e3), max_size=3)


@given(st.lists(st.tuples(st.integers(1, 1000), reports), min_size=1, max_size=6))
@laws
def test_metrics_are_weighted_means_over_those_who_report(
    clients: list[tuple[int, dict[str, float]]],
) -> None:
    """Each value is rounded to half of 2^-40 in weighted units, whatever the weights."""
    encoding, zero = Encoding(256, 1024), np.zeros(SIZE, F32)
    sent = [encode(Update(zero, w, m), SPEC, encoding, Key.root(0)) for w, m in clients]
    found = sum_of(sent, encoding).total().metrics
    assert found.keys() == {name for _, metrics in clients for name in metrics}
    assert list(found) == sorted(found)
    for name, value in found.items():
        with_it = [(w, Fraction(m[name])) for w, m in clients if name in m]
        weight = sum(w for w, _ in with_it)
        expected = sum((w * v for w, v in with_it), Fraction(0)) / weight
        slack = Fraction(len(with_it) * 1024, 2**41 * weight) + abs(expected) / 2**50
        assert abs(Fraction(value) - expected) <= slack


# --- Blocks --------------------------------------------------------------------------------------

LONG = 3 * 65_536 + 5
LONG_X = (2 * np.arange(LONG) - LONG).astype(F32) * F32(2.0**-25)
"""With weight 1/2, an odd number of eighths of a grid step each: every draw matters."""


@pytest.fixture(scope="module")
def in_one_piece() -> np.ndarray:
    """floor(x * scale + u) over a long vector, written down without blocks.

    Each u is the middle of one of 65 536 steps.
    """
    words = Key.root(9).bits().random_raw(LONG // 4 + 1).view(np.uint16)[:LONG]
    exact = LONG_X.astype(np.float64) * (0.5 / Encoding(256, 1).grid)
    return np.floor(exact + (words + 0.5) / 65_536)


@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 3, 4, 5, 65_533, 65_534, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, LONG],
)
def test_the_encoder_does_not_depend_on_where_blocks_end(
    size: int, in_one_piece: np.ndarray
) -> None:
    x = LONG_X[:size]
    sent = encode(Update(x, 0.5), Spec.of({"w": x}), Encoding(256, 1), Key.root(9))
    assert sent.vector.dtype == np.int32
    assert sent.vector.shape == (size,)
    different = np.flatnonzero(sent.vector != in_one_piece[:size])
    assert different.tolist() == []


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537])
def test_decoding_does_not_depend_on_where_blocks_end(size: int) -> None:
    encoding = Encoding(256, 1)
    x = (np.arange(size, dtype=F32) - F32(size / 2)) / F32(1024)
    total = ExactSum(size, encoding)
    for _ in range(3):
        total.add(encode(Update(x, 1.0), Spec.of({"w": x}), encoding, Key.root(9)))
    assert np.array_equal(total.total().mean, x)
