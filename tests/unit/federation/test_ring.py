"""Updates in the ring of a secure sum, by hand and by property."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import NotFinite, OutOfRange
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.update import Update
from choral.crypto.ring import Ring
from choral.federation.ring import decode_ring, encode_ring
from choral.federation.secure import bits_of, grid_of

SPEC = Spec.of({"w": np.zeros(3, np.float32), "b": np.zeros(1, np.float32)})


@pytest.fixture
def plan(make_plan):
    return make_plan()


def grid(modulus=32, clients=10, metrics=(("loss", 8.0),), **changes):
    bits = bits_of(Secure(modulus_bits=modulus), clients)
    return dataclasses.replace(RingGrid(16, 100, bits, modulus, tuple(metrics)), **changes)


def update(values, weight, **metrics):
    return Update(np.array(values, np.float32), weight, metrics)


def summed(updates, plan, grid):
    ring = Ring(grid.modulus_bits)
    total = None
    for i, each in enumerate(updates):
        key = Key.root(5).fold(i)
        vector = encode_ring(each, SPEC, plan=plan, grid=grid, key=key).vector
        total = vector.copy() if total is None else (ring.add(total, vector), total)[1]
    return decode_ring(total, SPEC, plan=plan, grid=grid, count=len(updates))


@pytest.mark.parametrize("modulus", [16, 24, 32, 64])
def test_a_weighted_mean(plan, modulus):
    g = grid(modulus)
    total = summed(
        [update([1, -2, 3, 0], 30, loss=1.0), update([5, 2, -3, 1], 10, loss=3.0)], plan, g
    )
    step = g.range / 2 ** (g.bits - 1)
    bound = 2 * step / (40 / g.weight_unit) * 1.01
    np.testing.assert_allclose(total.mean, [2, -1, 1.5, 0.25], atol=bound)
    assert total.count == 2
    if modulus > 16:
        assert total.weight == 40.0  # whole numbers come out whole
        assert total.metrics["loss"] == pytest.approx(1.5, abs=1e-4)


def test_a_metric_of_some_clients_is_their_mean(plan):
    g = grid(metrics=[("a", 1.0), ("b", 1.0)])
    total = summed([update([0] * 4, 1, a=0.5), update([0] * 4, 3)], plan, g)
    assert total.metrics == {"a": pytest.approx(0.5)}


def test_undeclared_metrics_stay_at_the_client(plan):
    assert summed([update([0] * 4, 1, secret=5.0)], plan, grid()).metrics == {}


def test_a_metric_beyond_its_bound_is_held_to_it(plan):
    total = summed([update([0] * 4, 1, loss=1e30), update([0] * 4, 1, loss=0.0)], plan, grid())
    assert total.metrics["loss"] == pytest.approx(4.0)


def test_uniform_weights_say_how_many(plan):
    uniform = dataclasses.replace(plan, weighting="uniform")
    total = summed([update([2] * 4, 1), update([4] * 4, 1)], uniform, grid(weight_cap=1.0))
    assert total.weight == 2.0
    np.testing.assert_allclose(total.mean, [3] * 4, atol=1e-5)


def test_a_sum_of_no_weight_moves_nothing(plan):
    total = summed([update([5] * 4, 0, loss=1.0)], plan, grid())
    assert (total.weight, total.metrics) == (0.0, {})
    np.testing.assert_array_equal(total.mean, np.zeros(4))


@pytest.mark.parametrize(
    ("values", "weight", "error", "words"),
    [
        ([0, 0, 17, 0], 1, OutOfRange, "`w` moved beyond the declared range 16"),
        ([0, 0, 0, -17], 1, OutOfRange, "`b` moved"),
        ([0, 0, np.nan, 0], 1, NotFinite, "`w`"),
        ([0, 0, 0, np.inf], 1, NotFinite, "`b`"),
        ([0, 0, 0, 0], 101, OutOfRange, "weight"),
    ],
    ids=str,
)
def test_updates_that_do_not_fit(plan, values, weight, error, words):
    with pytest.raises(error, match=words) as caught:
        summed([update(values, weight)], plan, grid())
    assert "101" not in str(caught.value)  # the coordinator reads this: no count, no coordinate


def test_the_edges_of_the_range_fit(plan):
    g = grid(clients=10)
    edge = [update([16, -16, 16, -16], 100)] * 10
    np.testing.assert_allclose(summed(edge, plan, g).mean, [16, -16, 16, -16], rtol=1e-5)


def test_a_sum_that_nobody_encoded_is_refused(plan):
    g = grid()
    good = encode_ring(update([1] * 4, 1), SPEC, plan=plan, grid=g, key=Key.root(1)).vector
    for at in (0, 4):
        bad = good.copy()
        bad[at] = 2**31 - 1
        with pytest.raises(OutOfRange):
            decode_ring(bad, SPEC, plan=plan, grid=g, count=1)


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-16, 16, width=32), min_size=4, max_size=4), st.integers(1, 100)
        ),
        min_size=1,
        max_size=10,
    )
)
def test_the_error_is_bounded(rows):
    from choral.core.plan import Plan  # the fixture cannot be used under @given

    plan = Plan.__new__(Plan)
    object.__setattr__(plan, "weighting", "examples")
    g = grid_of(Secure(), 10, range=16, weight_cap=100, metrics={})
    total = summed([update(x, w) for x, w in rows], plan, g)
    x, w = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    exact = w @ x / w.sum()
    bound = len(rows) * g.range / (2 ** (g.bits - 1) - 1) * g.weight_unit / w.sum()
    np.testing.assert_allclose(total.mean, exact, rtol=2e-7, atol=bound)
    assert total.weight == w.sum()
