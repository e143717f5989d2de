"""The grid, the encoder and the accumulator, by hand. Their laws are in tests/property."""

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest

from choral.core.errors import ConfigError, NotFinite, OutOfRange, UpdateRejected, WrongShape
from choral.core.exact import MAX_COUNT, Contribution, Encoding, ExactSum, encode
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.update import Update

F32 = np.float32
KEY = Key.root(7)
UNIT = Encoding(range=256.0, weight_unit=1.0, weight_cap=1.0)
"""Grid 2^-23 and weights up to 1."""


class Draws:
    """A key whose uniform draws are given: 16-bit words, in order."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words.astype(np.uint16)

    def bits(self) -> "Draws":
        return self

    def random_raw(self, size: int) -> np.ndarray:
        words, self._words = self._words[: 4 * size], self._words[4 * size :]
        return np.resize(words, 4 * size).view(np.uint64)


def spec_of(size: int) -> Spec:
    return Spec.of({"w": np.zeros(size, F32)})


def send(
    *delta: float,
    weight: float = 1.0,
    encoding: Encoding = UNIT,
    key: Any = KEY,
    **metrics: float,
) -> Contribution:
    return encode(Update(np.array(delta, F32), weight, metrics), spec_of(len(delta)), encoding, key)


def contribution(*vector: int, weight: int = 2**30, **metrics: int) -> Contribution:
    return Contribution(np.array(vector, np.int32), weight, metrics)


# --- Encoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rounded"),
    [
        (256, 256.0),
        (255.5, 256.0),
        (257, 512.0),
        (1, 1.0),
        (3, 4.0),
        (0.3, 0.5),
        (2.0**40, 2.0**40),
    ],
)
def test_range_and_unit_are_rounded_up_to_powers_of_two(given: float, rounded: float) -> None:
    assert Encoding(range=given).range == rounded
    assert Encoding(weight_unit=given, weight_cap=1).weight_unit == rounded


def test_the_grid_by_hand() -> None:
    assert Encoding(range=256.0).grid == 2.0**8 / 2.0**31 == 2.0**-23
    assert Encoding(range=1.0).grid == 2.0**-31
    assert 1.1e-7 < Encoding().grid < 1.2e-7


@pytest.mark.parametrize("field", ["range", "weight_unit", "weight_cap"])
@pytest.mark.parametrize("value", [0, -1, 2.0**-21, 2.0**41, math.inf, math.nan, "256", True, None])
def test_a_grid_beyond_its_limits_is_refused(field: str, value: float) -> None:
    words = rf"encoding\.{field} .*: expected a number in \[2\^-20, 2\^40\]"
    with pytest.raises(ConfigError, match=words):
        Encoding(**{field: value})


def test_the_cap_is_taken_as_it_is() -> None:
    assert Encoding(weight_cap=1000.5).weight_cap == 1000.5


def test_a_cap_far_above_the_unit_is_refused() -> None:
    """The unit of 3 is rounded up to 4."""
    assert Encoding(weight_unit=3, weight_cap=2.0**22).weight_cap == 2.0**22
    with pytest.raises(ConfigError, match=r"encoding\.weight_cap .*: expected at most 2\^20 times"):
        Encoding(weight_unit=3, weight_cap=2.0**22 + 1)


def test_an_encoded_weight_by_hand() -> None:
    encoding = Encoding(weight_unit=8)
    assert [encoding.encode_weight(w) for w in (0, 1, 8, 24.5)] == [0, 2**27, 2**30, 49 * 2**26]


def test_an_encoding_is_a_value() -> None:
    assert Encoding(range=255) == Encoding(range=256.0)
    assert len({Encoding(), Encoding(256, 1000, 2**20), Encoding(512)}) == 2
    assert repr(Encoding(np.float32(256), np.int64(1000), np.int64(9))) == repr(
        Encoding(256.0, 1024.0, 9.0)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNIT.range = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("power", [256.0, 65536.0, 2.0**39])
def test_just_above_a_power_of_two_is_rounded_up(power: float) -> None:
    assert Encoding(range=math.nextafter(power, math.inf)).range == 2 * power


def test_error_bound_by_hand() -> None:
    """Ten clients of weight 2 with a unit of 4: 10 grid steps over a normalised weight of 5."""
    assert Encoding(256, 4).error_bound(10, 20) == 10 * 2.0**-23 / 5


@pytest.mark.parametrize(("unit", "multiple"), [(8, 1), (1024, 3), (2.0**-10, 2**40 + 1)])
def test_a_multiple_of_the_smallest_weight_is_exact(unit: float, multiple: int) -> None:
    """What `error_bound` is claimed for: weights that are multiples of unit / 2^30."""
    encoding = Encoding(256, unit, unit * 2**20)
    assert encoding.encode_weight(multiple * unit / 2**30) == multiple


def test_another_weight_counts_as_its_nearest_multiple() -> None:
    """A unit of 2^30 makes whole numbers the multiples; the bound is not against 2.75."""
    encoding = Encoding(2.0**40, 2.0**30)
    total = ExactSum(1, encoding)
    total.add(send(1024.0, weight=2.75, encoding=encoding))
    total.add(send(0.0, weight=1, encoding=encoding))
    found = total.total()
    assert found.weight == 4.0
    assert abs(float(found.mean[0]) - 1024 * 3 / 4) <= encoding.error_bound(2, found.weight)


# --- encode ------------------------------------------------------------------------------------


def test_golden_contribution() -> None:
    key = KEY.fold(1, "a", "rounding")
    x = (0.1, -0.1, 1 / 3, -255.9, 255.9, 1e-9, -1e-9, 0.0, 2.5)
    whole = send(*x, key=key, loss=0.25)
    assert whole.vector.tolist() == [
        838861, -838861, 2796202, -2146644736, 2146644736, 0, 0, 0, 20971520,
    ]  # fmt: skip
    assert (whole.weight, whole.metrics) == (2**30, {"loss": 2**38})
    small = send(*x, key=key, weight=3, encoding=Encoding(256, 65536), loss=0.25)
    assert small.vector.tolist() == [39, -39, 128, -98266, 98265, 0, 0, 0, 960]
    assert (small.weight, small.metrics) == (3 * 2**14, {"loss": 3 * 2**22})
    odd = send(*x, key=key, weight=0.7, loss=0.25)
    assert odd.vector.tolist() == [
        587203, -587203, 1957341, -1502651316, 1502651315, 0, 0, 0, 14680064,
    ]  # fmt: skip
    assert (odd.weight, odd.metrics) == (751619277, {"loss": 192414534912})


def test_golden_contribution_of_two_blocks() -> None:
    """Eighths of a grid step, so that the draws decide."""
    x = (np.arange(70_000, dtype=F32) - 35_000) * F32(2.0**-26)
    found = encode(Update(x, 1.0), spec_of(70_000), UNIT, KEY).vector
    assert hashlib.sha256(found.astype("<i4").tobytes()).hexdigest() == (
        "e262f2bde22d0b306ee24fc1450a955cfe20365f48b70a39a0257d212106c6ef"
    )


def test_values_on_the_grid_are_exact_whatever_is_drawn() -> None:
    for words in (np.zeros(4), np.full(4, 2**16 - 1)):
        found = send(1.0, -1.0, 2.0**-23, 0.0, key=Draws(words))
        assert found.vector.tolist() == [2**23, -(2**23), 1, 0]


@pytest.mark.parametrize(
    ("fraction", "word", "rounded"),
    [
        *[(0.25, 0xBFFF, 0), (0.25, 0xC000, 1), (0.75, 0x3FFF, 0), (0.75, 0x4000, 1)],
        *[(2.0**-17, 0xFFFF, 1), (2.0**-18, 0xFFFF, 0), (1 - 2.0**-17, 0, 1), (1 - 2.0**-16, 0, 0)],
    ],
)
def test_rounding_by_hand(fraction: float, word: int, rounded: int) -> None:
    """A value of k + f is rounded up where the draw, a half and its word in 65536ths, is 1 - f."""
    for whole in (-3, 0, 5):
        found = send((whole + fraction) * UNIT.grid, key=Draws(np.full(4, word)))
        assert found.vector.tolist() == [whole + rounded]


def test_the_bias_over_all_draws_is_at_most_the_stated_one() -> None:
    """Not a sample: each of the 65 536 draws occurs once, so the mean is the expectation."""
    fractions = [0.0, 2.0**-17, 2.0**-16 - 2.0**-23, 0.3, 0.5, 1 - 2.0**-20, -(2.0**-20), -0.3]
    for fraction in fractions:
        x = np.full(2**16, fraction * UNIT.grid, F32)
        found = encode(Update(x, 1.0), spec_of(2**16), UNIT, Draws(np.arange(2**16)))  # type: ignore[arg-type]
        assert abs(found.vector.mean() - float(x[0]) / UNIT.grid) <= 2.0**-17


def test_the_update_is_not_changed() -> None:
    x = np.array([1.5, 2.5], F32)
    x.flags.writeable = False
    encode(Update(x, 1.0), spec_of(2), UNIT, KEY)
    assert x.tolist() == [1.5, 2.5]


def test_a_strided_vector_is_encoded_like_a_dense_one() -> None:
    x = np.linspace(-3, 3, 200, dtype=F32)
    dense = encode(Update(x[::2].copy(), 1.0), spec_of(100), UNIT, KEY)
    strided = encode(Update(x[::2], 1.0), spec_of(100), UNIT, KEY)
    assert np.array_equal(dense.vector, strided.vector)


def test_equal_keys_give_equal_rounding_and_others_differ() -> None:
    x = np.linspace(0, 1, 1000).tolist()
    first, again, other = send(*x), send(*x, key=Key.root(7)), send(*x, key=Key.root(8))
    assert np.array_equal(first.vector, again.vector)
    assert not np.array_equal(first.vector, other.vector)


def test_size_on_the_wire() -> None:
    assert send(1, 2, 3).size_bytes == 3 * 4 + 8
    assert send(1, 2, 3, loss=1).size_bytes == 3 * 4 + 8 + 16


def test_a_metric_of_a_contribution() -> None:
    sent = send(1.0, weight=0.25, loss=0.5, accuracy=-3.0)
    assert (sent.metric("loss"), sent.metric("accuracy"), sent.metric("absent")) == (0.5, -3.0, 0.0)
    assert send(1.0, weight=0.0, loss=0.5).metric("loss") == 0.0


# --- encode: what is refused --------------------------------------------------------------------


def test_the_largest_coordinate() -> None:
    """With range 256 the last float32 below 256 is 256 - 2^-16: 2^31 - 128 steps."""
    edge = float(np.nextafter(F32(256), F32(0)))
    for words in (np.zeros(4), np.full(4, 2**16 - 1)):
        assert send(edge, -edge, key=Draws(words)).vector.tolist() == [2**31 - 128, 128 - 2**31]


@pytest.mark.parametrize("x", [256.0, -256.0, 257.0, 3e38, -3e38])
def test_just_beyond_the_range(x: float) -> None:
    with pytest.raises(OutOfRange, match="beyond the declared range 256") as caught:
        send(x, 0.0)
    assert "tensor `w`" in caught.value.message
    assert "range" in caught.value.hint


def test_the_range_is_that_of_the_weighted_update() -> None:
    assert send(500.0, weight=0.5).vector.tolist() == [250 * 2**23]
    with pytest.raises(OutOfRange):
        send(513.0, weight=0.5)
    assert send(3e38, weight=0.0).vector.tolist() == [0]


NAMED = Spec.of(
    {
        "mean": np.zeros(1, F32),
        "first": np.zeros(2, F32),
        "n": np.zeros(3, np.int64),
        "second": np.zeros(2, F32),
    },
    {"mean": "buffer"},
)
"""Its vector holds `first`, `second` and the buffer `mean`, and not the integers `n`."""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("at", "name"), [(0, "first"), (1, "first"), (2, "second"), (4, "mean")])
def test_nan_and_infinity_name_the_tensor(bad: float, at: int, name: str) -> None:
    x = np.zeros(5, F32)
    x[at] = bad
    with pytest.raises(NotFinite, match=f"tensor `{name}` holds NaN or infinity"):
        encode(Update(x, 1.0), NAMED, UNIT, KEY)


@pytest.mark.parametrize(("at", "name"), [(0, "first"), (3, "second"), (4, "mean")])
def test_out_of_range_names_the_tensor(at: int, name: str) -> None:
    x = np.zeros(5, F32)
    x[at] = -1000
    with pytest.raises(OutOfRange, match=f"tensor `{name}` moved by 1000"):
        encode(Update(x, 1.0), NAMED, UNIT, KEY)


def test_exactly_the_range_names_the_tensor() -> None:
    x = np.array([0, 0, 0, 256, 0], F32)
    with pytest.raises(OutOfRange, match="tensor `second` moved by 256"):
        encode(Update(x, 1.0), NAMED, UNIT, KEY)


@pytest.mark.filterwarnings("error")
def test_far_beyond_the_range_warns_of_nothing() -> None:
    with pytest.raises(OutOfRange, match="tensor `w` moved by 3e"):
        send(3e38)


def test_the_weight_cap() -> None:
    assert send(1.0, weight=1.0).weight == 2**30
    assert send(1.0, weight=3000, encoding=Encoding(256, 1024, 3000)).weight == 3000 * 2**20
    with pytest.raises(OutOfRange, match="weight 3001 is above the round's cap 3000") as caught:
        send(1.0, weight=3001, encoding=Encoding(256, 1024, 3000))
    assert "weight_cap" in caught.value.hint
    with pytest.raises(OutOfRange):
        send(1.0, weight=math.nextafter(1.0, 2.0))


def test_a_weight_of_zero_contributes_nothing_but_its_count() -> None:
    found = send(3.0, -3.0, weight=0.0, loss=2.0)
    assert (found.vector.tolist(), found.weight, found.metrics) == ([0, 0], 0, {"loss": 0})


def test_a_positive_weight_is_counted_or_refused() -> None:
    with pytest.raises(UpdateRejected, match="weight"):
        send(1.0, weight=1e-5, encoding=Encoding(256, 65536))


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_a_weight_that_is_no_weight(weight: float) -> None:
    with pytest.raises(UpdateRejected, match="weight"):
        send(1.0, weight=weight)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite(value: float) -> None:
    with pytest.raises(NotFinite, match="metric `loss`"):
        send(1.0, loss=value)


@pytest.mark.parametrize("value", [2.0**23, -1e9, 1e300, 1.7e308])
def test_a_metric_beyond_eight_bytes(value: float) -> None:
    with pytest.raises(OutOfRange, match="metric `loss`"):
        send(1.0, loss=value)


def test_another_shape_or_type() -> None:
    with pytest.raises(WrongShape):
        encode(Update(np.zeros(3, F32), 1.0), spec_of(2), UNIT, KEY)
    with pytest.raises(WrongShape):
        encode(Update(np.zeros(2, np.float64), 1.0), spec_of(2), UNIT, KEY)  # type: ignore[arg-type]


def test_an_integer_buffer_is_not_sent() -> None:
    update = Update(np.arange(5, dtype=F32), 1.0)
    sent = encode(update, NAMED, UNIT, KEY)
    assert sent.vector.tolist() == [i * 2**23 for i in range(5)]
    with pytest.raises(WrongShape, match=r"expected \[5\]"):
        encode(Update(np.zeros(8, F32), 1.0), NAMED, UNIT, KEY)


def test_a_contribution_is_equal_to_itself_alone() -> None:
    mine, twin = contribution(1, 2, loss=3), contribution(1, 2, loss=3)
    assert mine == mine
    assert mine != twin
    assert len({mine, twin, mine}) == 2


# --- ExactSum ----------------------------------------------------------------------------------


def test_a_sum_by_hand() -> None:
    total = ExactSum(2, UNIT)
    total.add(contribution(10, -20, weight=2**29, loss=2**40))
    total.add(contribution(30, 50, weight=2**30, loss=-(2**39), accuracy=2**38))
    state = total.state()
    assert state["vector"].dtype == np.int64
    assert state["vector"].tolist() == [40, 30]
    assert (total.count, total.weight) == (2, 3 * 2**29)
    assert state["metrics"] == {"accuracy": (2**38, 2**30), "loss": (2**39, 3 * 2**29)}


def test_a_total_by_hand() -> None:
    """Normalised weights 1/2 and 1 with a unit of 4; the mean is the sum of w*x over 1.5."""
    encoding = Encoding(256, 4)
    total = ExactSum(2, encoding)
    total.add(send(6.0, -3.0, weight=2, encoding=encoding, loss=1.0))
    total.add(send(3.0, 3.0, weight=4, encoding=encoding, loss=4.0, accuracy=0.25))
    found = total.total()
    assert found.mean.dtype == F32
    assert found.mean.tolist() == [4.0, 1.0]
    assert (found.weight, found.count) == (6.0, 2)
    assert found.metrics == {"accuracy": 0.25, "loss": 3.0}


def test_a_total_is_equal_to_itself_alone() -> None:
    mine, twin = ExactSum(2, UNIT).total(), ExactSum(2, UNIT).total()
    assert mine == mine
    assert mine != twin
    assert len({mine, twin, mine}) == 2


def test_an_empty_sum() -> None:
    found = ExactSum(3, UNIT).total()
    assert found.mean.tolist() == [0.0, 0.0, 0.0]
    assert (found.weight, found.count, found.metrics) == (0.0, 0, {})


def test_a_sum_of_no_elements() -> None:
    total = ExactSum(0, UNIT)
    total.add(encode(Update(np.zeros(0, F32), 1.0, {"loss": 2.0}), Spec(()), UNIT, KEY))
    found = total.total()
    assert found.mean.shape == (0,)
    assert (found.weight, found.count, found.metrics) == (1.0, 1, {"loss": 2.0})


def test_contributions_of_weight_zero_are_counted_and_weigh_nothing() -> None:
    total = ExactSum(1, UNIT)
    total.add(send(3.0, weight=0.0, loss=9.0))
    assert total.total().metrics == {}
    total.add(send(2.0, weight=0.5, loss=1.0))
    found = total.total()
    assert found.mean.tolist() == [2.0]
    assert (found.weight, found.count, found.metrics) == (0.5, 2, {"loss": 1.0})


def test_merge_adds_another_sum_and_leaves_it_alone() -> None:
    one, two = ExactSum(1, UNIT), ExactSum(1, UNIT)
    one.add(contribution(5, loss=1))
    two.add(contribution(7, weight=1, accuracy=2))
    one.merge(two)
    assert one.state()["vector"].tolist() == [12]
    assert (one.count, one.weight) == (2, 2**30 + 1)
    assert one.state()["metrics"] == {"accuracy": (2, 1), "loss": (1, 2**30)}
    assert (two.state()["vector"].tolist(), two.count) == ([7], 1)


def test_sums_beyond_32_and_53_bits() -> None:
    total = ExactSum(2, UNIT)
    for _ in range(4):
        total.add(contribution(2**31 - 1, -(2**31) + 1))
    assert total.state()["vector"].tolist() == [2**33 - 4, -(2**33) + 4]
    for _ in range(25):
        total.merge(total)
    assert total.count == 2**27
    assert total.state()["vector"].tolist() == [2**58 - 2**27, -(2**58) + 2**27]
    assert total.weight == 2**57
    assert total.total().mean.tolist() == [256.0, -256.0]


def test_a_full_sum_takes_no_more() -> None:
    total = ExactSum(1, UNIT)
    total.add(contribution(2**31 - 1))
    for _ in range(31):
        total.merge(total)
    assert total.count == MAX_COUNT == 2**31
    before = total.state()["vector"].tolist()
    assert before == [2**31 * (2**31 - 1)]
    with pytest.raises(OutOfRange, match="more than 2147483648 contributions"):
        total.add(contribution(1))
    with pytest.raises(OutOfRange, match="more than 2147483648 contributions"):
        total.merge(total)
    assert (total.state()["vector"].tolist(), total.count) == (before, MAX_COUNT)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3, np.int32), np.zeros((2, 1), np.int32), np.zeros(2, np.int64), np.zeros(2, F32)],
)
def test_a_contribution_of_another_shape_or_type(vector: Any) -> None:
    total = ExactSum(2, UNIT)
    with pytest.raises(WrongShape, match=r"expected int32\[2\]"):
        total.add(Contribution(vector, 1))
    assert total.count == 0


def test_a_sum_of_another_size() -> None:
    with pytest.raises(WrongShape, match="sum of 3, expected 2"):
        ExactSum(2, UNIT).merge(ExactSum(3, UNIT))


def test_a_sum_on_another_grid() -> None:
    for other in (Encoding(512, 1, 1), Encoding(256, 2, 1), Encoding(256, 1, 2)):
        with pytest.raises(WrongShape, match="sum on the grid"):
            ExactSum(2, UNIT).merge(ExactSum(2, other))


def test_the_cap_holds_for_encoded_weights_too() -> None:
    """Three units and a half: the coordinator does not rely on the client's own check."""
    total, limit = ExactSum(1, Encoding(256, 2, 7)), 7 * 2**29
    total.add(contribution(1, weight=limit))
    with pytest.raises(OutOfRange, match=f"expected .*0 to {limit}"):
        total.add(contribution(1, weight=limit + 1))
    assert total.count == 1


@pytest.mark.parametrize("weight", [-1, 2**30 + 1])
def test_an_encoded_weight_out_of_range(weight: int) -> None:
    total = ExactSum(1, UNIT)
    with pytest.raises(OutOfRange, match=r"encoded weight .*0 to 1073741824"):
        total.add(contribution(1, weight=weight))
    assert (total.count, total.state()["vector"].tolist()) == (0, [0])


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": 0.5},
        {"metrics": {"loss": "x"}},
        {"metrics": {"loss": math.nan}},
        {"metrics": {"loss": 0.5}},
        {"metrics": {"loss": 2**63}},
        {"metrics": {"loss": 10**400}},
    ],
)
def test_a_contribution_from_a_hostile_client_leaves_the_sum_alone(bad: dict[str, Any]) -> None:
    total = ExactSum(1, UNIT)
    with pytest.raises(UpdateRejected):
        total.add(dataclasses.replace(contribution(1), **bad))
    assert (total.count, total.weight, total.state()["vector"].tolist()) == (0, 0, [0])


def test_the_state_is_a_snapshot() -> None:
    total = ExactSum(1, UNIT)
    total.add(contribution(1))
    before = total.state()
    total.add(contribution(1))
    assert before["vector"].tolist() == [1]


def test_memory_is_one_accumulator() -> None:
    total = ExactSum(1000, UNIT)
    sent = contribution(*range(1000))
    vector = total.state()["vector"]
    for _ in range(10):
        total.add(sent)
    assert vector.nbytes == 8000
    assert not np.shares_memory(total.state()["vector"], sent.vector)
