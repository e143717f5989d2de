"""What one client contributes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import NotFinite, UpdateRejected, WrongShape
from choral.core.exact import Encoding, encode
from choral.core.keys import Key
from choral.core.params import Params, Spec
from choral.core.update import Update

F32 = np.float32


def update(*delta: float, weight: float = 1.0, **metrics: float) -> Update:
    return Update(np.array(delta, F32), weight, metrics)


SPEC = Spec.of({"w": np.zeros((1, 2), F32), "b": np.zeros((), F32)})


# --- between -----------------------------------------------------------------------------------


def between(
    spec: Spec, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], weight: float = 1.0
) -> Update:
    return Update.between(spec, old, new, weight=weight, metrics={"loss": 0.5})


def test_between_is_new_minus_old_in_the_order_of_the_vector() -> None:
    old = {"n": np.array(10), "w": np.array([1.0, 2.0], F32), "b": np.array(3.0, F32)}
    new = {"n": np.array(14), "w": np.array([1.5, 0.0], F32), "b": np.array(3.25, F32)}
    found = between(Spec.of(old), old, new, weight=6.0)
    assert found.delta.dtype == F32
    assert found.delta.tolist() == [0.5, -2.0, 0.25]
    assert (found.weight, found.metrics, found.kept) == (6.0, {"loss": 0.5}, None)


def test_between_and_the_old_model_give_the_new_one() -> None:
    old, new = {"w": np.array([0.25, 1.0], F32)}, {"w": np.array([0.5, -1.0], F32)}
    spec = Spec.of(old)
    back = spec.unflatten(spec.flatten(old) + between(spec, old, new).delta, {})
    assert back["w"].tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("dtype", "old", "new", "delta"),
    [
        (np.float64, 1e9, 1e9 + 0.25, 0.25),
        (np.float64, 1 + 2.0**-50, 1, -(2.0**-50)),
        (np.float16, 60000, -60000, -120000.0),
    ],
)
def test_between_takes_differences_in_float64(dtype: Any, old: Any, new: Any, delta: float) -> None:
    a, b = {"x": np.array([old], dtype)}, {"x": np.array([new], dtype)}
    assert between(Spec.of(a), a, b).delta.tolist() == [delta]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize(
    "trained", [np.ones(2), np.zeros(2), np.ones(5), None], ids=["moved", "same", "longer", "none"]
)
def test_between_ignores_an_integer_buffer(dtype: Any, trained: np.ndarray | None) -> None:
    """A client's counter is not sent, whatever became of it; the next model has the first one."""
    old = {"n": np.zeros(2, dtype), "w": np.array([1.0], F32)}
    new = {"w": np.array([3.0], F32)} | ({} if trained is None else {"n": trained.astype(dtype)})
    spec = Spec.of(old)
    found = between(spec, old, new)
    assert (found.delta.tolist(), found.kept) == ([2.0], None)
    found.check(spec)
    after = spec.unflatten(spec.flatten(old) + found.delta, old)
    assert after["n"].tolist() == old["n"].tolist()
    assert after["w"].tolist() == [3.0]


def test_between_sends_a_floating_buffer_behind_the_shared_tensors() -> None:
    old = {"mean": np.array([1.0], F32), "w": np.array([1.0], F32)}
    new = {"mean": np.array([4.0], F32), "w": np.array([3.0], F32)}
    assert between(Spec.of(old, {"mean": "buffer"}), old, new).delta.tolist() == [2.0, 3.0]


def test_between_keeps_personal_tensors_apart_and_leaves_frozen_ones_out() -> None:
    old = {n: np.zeros(1, F32) for n in ("w", "head", "base")}
    new = {n: np.ones(1, F32) for n in ("w", "head", "base")}
    found = between(Spec.of(old, {"head": "personal", "base": "frozen"}), old, new)
    assert found.delta.tolist() == [1.0]
    assert isinstance(found.kept, Params)
    assert {n: a.tolist() for n, a in found.kept.items()} == {"head": [1.0]}


def test_between_with_scalars_and_empty_tensors() -> None:
    old = {"none": np.zeros((0, 2), F32), "one": np.array(1.0, F32)}
    new = {"none": np.zeros((0, 2), F32), "one": np.array(2.0, F32)}
    assert between(Spec.of(old), old, new).delta.tolist() == [1.0]


@pytest.mark.parametrize(
    "new",
    [
        {"w": np.ones(1, F32)},
        {"w": np.ones((), F32)},
        {"w": np.ones(2, F32)},
        {"w": np.ones((3, 1), F32)},
        {},
    ],
)
def test_between_refuses_a_trained_model_of_another_shape(new: dict[str, np.ndarray]) -> None:
    old = {"w": np.zeros(3, F32)}
    with pytest.raises(WrongShape, match="w"):
        between(Spec.of(old), old, new)


@pytest.mark.parametrize("shape", [(1,), (), (2,), (3, 1)])
def test_between_refuses_a_received_model_of_another_shape(shape: tuple[int, ...]) -> None:
    new = {"w": np.zeros(3, F32)}
    with pytest.raises(WrongShape, match="tensor `w` has shape"):
        between(Spec.of(new), {"w": np.zeros(shape, F32)}, new)


# --- merge -------------------------------------------------------------------------------------


def test_merge_by_hand() -> None:
    both = update(1, 10, weight=1, loss=4.0).merge(update(4, 10, weight=2, loss=1.0))
    assert both.delta.tolist() == [3.0, 10.0]
    assert both.delta.dtype == F32
    assert both.weight == 3.0
    assert both.metrics == {"loss": 2.0}


def test_merge_of_two_weightless_updates() -> None:
    both = update(1, weight=0).merge(update(3, weight=0))
    assert both.weight == 0
    assert both.delta.tolist() == [1.0]


def test_merge_drops_what_was_kept() -> None:
    mine = Update(np.zeros(1, F32), 1.0, kept=Params({"head": np.zeros(1, F32)}))
    assert mine.merge(mine).kept is None


def test_merge_leaves_its_arguments_alone() -> None:
    a, b = update(1, loss=1.0), update(3, loss=3.0)
    a.merge(b)
    assert (a.delta.tolist(), b.delta.tolist(), a.metrics) == ([1.0], [3.0], {"loss": 1.0})


small = st.floats(-100, 100, width=32)
updates = st.builds(lambda x, w, m: update(x, weight=w, loss=m), small, st.integers(0, 100), small)


@given(updates, updates, updates)
@settings(derandomize=True, deadline=None)
def test_merge_is_associative_and_commutative_up_to_rounding(
    a: Update, b: Update, c: Update
) -> None:
    one, two, other = a.merge(b).merge(c), a.merge(b.merge(c)), b.merge(a).merge(c)
    assert one.weight == two.weight == other.weight
    if a.weight and b.weight and c.weight:
        for found in (two, other):
            assert found.delta[0] == pytest.approx(float(one.delta[0]), abs=2e-3)
            assert found.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-9)


def test_weight_zero_is_the_identity_of_merge() -> None:
    identity, mine = Update(np.zeros(2, F32), 0.0), update(1, 2, weight=3, loss=0.5)
    for found in (identity.merge(mine), mine.merge(identity)):
        assert found.delta.tolist() == [1.0, 2.0]
        assert found.weight == 3
        assert found.metrics == {"loss": 0.5}


# --- equality ----------------------------------------------------------------------------------


def test_an_update_is_equal_to_itself_alone() -> None:
    """Comparing arrays by value would have no single answer, or none at all."""
    mine, twin = update(1, 2, loss=0.5), update(1, 2, loss=0.5)
    assert mine == mine
    assert mine != twin
    assert len({mine, twin, mine}) == 2


# --- check -------------------------------------------------------------------------------------


def test_check_accepts_what_fits() -> None:
    update(1, 2, 3, weight=0, loss=-1.0).check(SPEC)
    update(1, 2, 3, weight=7).check(SPEC)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (np.zeros(3), "type float64, expected a float32 array"),
        (np.zeros(3, ">f4"), "type >f4"),
        (np.zeros(3, np.int32), "type int32"),
        ([0.0, 0.0, 0.0], "type list"),
        (None, "type NoneType"),
        (np.zeros(2, F32), r"shape \[2\], expected \[3\]"),
        (np.zeros(4, F32), r"shape \[4\]"),
        (np.zeros((1, 3), F32), r"shape \[1, 3\]"),
        (np.zeros((), F32), r"shape \[\]"),
    ],
)
def test_check_refuses_another_vector(delta: Any, message: str) -> None:
    with pytest.raises(WrongShape, match=message):
        Update(delta, 1.0).check(SPEC)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, None, "3"])
def test_check_refuses_a_weight_that_is_no_finite_number(weight: Any) -> None:
    with pytest.raises(NotFinite, match="weight"):
        update(1, 2, 3, weight=weight).check(SPEC)


def test_check_refuses_a_negative_weight() -> None:
    with pytest.raises(UpdateRejected, match="weight -1, expected at least 0"):
        update(1, 2, 3, weight=-1).check(SPEC)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_check_refuses_a_metric_that_is_not_finite(value: float) -> None:
    with pytest.raises(NotFinite, match="metric `loss` is"):
        update(1, 2, 3, loss=value).check(SPEC)


@pytest.mark.parametrize("weight", [np.float32(3), np.int64(3)])
def test_check_accepts_a_numpy_scalar_as_weight(weight: Any) -> None:
    update(1, 2, 3, weight=weight).check(SPEC)


@pytest.mark.parametrize("value", [None, "0.5", [0.5], pytest.param(10**400, id="beyond float")])
def test_check_refuses_a_metric_that_is_no_number(value: Any) -> None:
    with pytest.raises(UpdateRejected, match="metric `loss`"):
        update(1, 2, 3, loss=value).check(SPEC)


def test_check_refuses_a_weight_beyond_float() -> None:
    with pytest.raises(UpdateRejected, match="weight"):
        update(1, 2, 3, weight=10**400).check(SPEC)


def test_personal_tensors_are_checked_and_take_their_dtype():
    spec = Spec.of({"w": np.zeros(1, np.float32), "h": np.zeros(2, np.float32)}, {"h": "personal"})
    old = {"w": np.zeros(1, np.float32), "h": np.zeros(2, np.float32)}
    new = {"w": np.ones(1), "h": np.ones(2)}
    update = Update.between(spec, old, new, weight=1.0, metrics={})
    assert update.kept["h"].dtype == np.float32
    for bad in ({"w": np.ones(1)}, {**new, "h": np.ones(3)}, {**new, "h": [1.0, 1.0]}):
        with pytest.raises(WrongShape, match="`h`"):
            Update.between(spec, old, bad, weight=1.0, metrics={})


def test_half_precision_weights_count():
    spec = Spec.of({"w": np.zeros(1, np.float32)})
    update = Update(np.ones(1, np.float32), np.float16(3))
    assert encode(update, spec, Encoding(weight_unit=4), Key.root(1)).weight == 3 * 2**28
