"""Clips: the bound holds, after the weight, for anything that a client computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import ConfigError, NotFinite, PlanError
from choral.core.keys import Key
from choral.core.params import Params, Spec
from choral.core.transform import WeightedMean, check_chain
from choral.core.update import Update
from choral.privacy.clip import (
    Clip,
    check_private_tensors,
    clip_l2,
    clip_layers,
    layers_norm,
    private_weight,
)

KEY = Key.root(1)


def spec_of(**sizes: int) -> Spec:
    return Spec.of(Params({k: np.zeros(n, np.float32) for k, n in sizes.items()}))


def exact_norm(x: np.ndarray) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for v in x))


def clipped(clip: Clip, delta, weight=1.0, metrics=None) -> Update:
    delta = np.asarray(delta, np.float32)
    update = Update(delta, weight, metrics or {})
    return clip.encode(update, spec_of(w=delta.size), None, KEY)


@given(
    st.lists(st.floats(-1e10, 1e10, width=32), min_size=1, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_no_vector_leaves_a_clip_above_its_bound(values: list[float], bound: float) -> None:
    out = clip_l2(np.array(values, np.float32), bound)
    assert exact_norm(out) <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_numbers_that_a_sum_of_squares_loses_are_clipped_too(dtype: type) -> None:
    """Each square is below half a unit in the last place of the first one, and there are many."""
    x = np.full(1_000_000, 5e-5, dtype)
    x[0] = 1e4
    out = clip_l2(x, 1.0)
    assert exact_norm(out) <= 1.0
    tail = np.concatenate([np.full(1, 1.0 - 1e-15), np.full(999_999, 5e-9)])
    assert exact_norm(clip_l2(tail.astype(dtype), 1.0)) <= 1.0


def test_a_clip_keeps_the_direction_and_small_vectors() -> None:
    x = np.array([3.0, -4.0], np.float32)
    np.testing.assert_allclose(clip_l2(x, 1.0), [0.6, -0.8], rtol=1e-6)
    assert clip_l2(x, 6.0) is x


def test_a_zero_update_passes() -> None:
    out = clipped(Clip(1.0), np.zeros(3))
    assert out.delta.tolist() == [0, 0, 0]
    assert out.weight == 1.0


def test_the_clip_comes_after_the_weight() -> None:
    """A client with many examples moves the sum by the bound and not by its weight times that."""
    heavy = clipped(Clip(1.0, weight_cap=10.0), [100.0, 0.0], weight=1e6)
    assert exact_norm(heavy.delta * heavy.weight) <= 1.0
    light = clipped(Clip(1.0, weight_cap=10.0), [0.5, 0.0], weight=5.0)
    assert light.delta.tolist() == [0.25, 0.0]
    assert (heavy.weight, light.weight) == (1.0, 1.0)


def test_weights_are_one_or_a_share_of_the_cap() -> None:
    assert clipped(Clip(1.0), [0.5], weight=700.0).delta.tolist() == [0.5]
    assert [private_weight(n, 100) for n in (1, 100, 10_000)] == [0.01, 1.0, 1.0]


def test_metrics_do_not_leave_beside_a_clipped_update() -> None:
    assert clipped(Clip(1.0), [1.0], metrics={"loss": 3.0}).metrics == {}
    report = Clip(1.0, report=True)
    assert clipped(report, [0.5], metrics={"loss": 3.0}).metrics == {"unclipped": 1.0}
    assert clipped(report, [2.0]).metrics == {"unclipped": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_or_infinity_is_zeroed_or_rejected_and_still_counts_as_participation(bad) -> None:
    with pytest.raises(NotFinite, match="`w`"):
        clipped(Clip(1.0), [1.0, bad])
    zeroed = clipped(Clip(1.0, not_finite="zero"), [1.0, bad])
    assert zeroed.delta.tolist() == [0.0, 0.0]
    assert zeroed.weight == 1.0, "it is in the sum, so its client took part"


def test_a_norm_beyond_float32_is_clipped() -> None:
    out = clipped(Clip(1.0), np.full(4, 3e38))
    assert 0.99 < exact_norm(out.delta) <= 1.0


def test_layers_are_clipped_each_and_make_up_the_whole() -> None:
    spec = spec_of(a=2, b=1)
    x = np.array([3.0, 4.0, 0.1], np.float32)
    out = clip_layers(x, spec, (1.0, 2.0))
    np.testing.assert_allclose(out, [0.6, 0.8, 0.1], rtol=1e-6)
    clip = Clip(layers_norm((1.0, 2.0)), layers=(1.0, 2.0))
    again = clip.encode(Update(x, 1.0), spec, None, KEY)
    assert (again.delta == out).all()
    with pytest.raises(PlanError, match="3 bounds for the clip of 2"):
        clip_layers(x, spec, (1.0, 2.0, 3.0))
    with pytest.raises(PlanError, match="make up"):
        Clip(1.0, layers=(1.0, 2.0))


@pytest.mark.parametrize("bound", [0, -1.0, math.inf, math.nan])
def test_a_bound_out_of_range_is_refused(bound) -> None:
    with pytest.raises(ConfigError, match=r"clip\.bound"):
        Clip(bound)


def test_a_clip_stands_in_a_chain_and_bounds_what_noise_needs() -> None:
    assert check_chain([Clip(2.0)], WeightedMean(), "secure").transforms == (Clip(2.0),)


def test_batchnorm_statistics_are_never_averaged_with_noise() -> None:
    params = Params({"w": np.zeros(2, np.float32), "mean": np.zeros(2, np.float32)})
    spec = Spec.of(params, {"mean": "buffer"})
    with pytest.raises(PlanError, match="`mean` is a buffer"):
        check_private_tensors(spec)
    check_private_tensors(spec_of(w=2))
