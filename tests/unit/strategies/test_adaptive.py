"""FedAdam, FedYogi and FedAdagrad against the equations of their paper, written out in float64."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies import FedAdagrad, FedAdam, FedYogi

START = [1.0, -0.5, 0.25]
CHANGES = [[0.2, -0.01, 0.0], [-0.1, -0.02, 3.0], [0.001, 0.0, -1.0]]


def run(strategy: object, rounds: int) -> object:
    """The state after the first `rounds` of CHANGES."""
    state = strategy.init(np.array(START, np.float32))
    for at, delta in enumerate(CHANGES[:rounds], start=1):
        state = strategy.step(state, Aggregate(at, np.array(delta, np.float32), 9.0, 3, {}))
    return state


def close(found: np.ndarray, expected: list[float]) -> bool:
    return np.allclose(found, expected, rtol=3e-6, atol=1e-12)


def test_fedadam_two_rounds_by_hand() -> None:
    strategy = FedAdam(0.1, beta1=0.5, beta2=0.75, tau=0.5)
    state = strategy.init(np.array([1.0], np.float32))
    assert (state.m.tolist(), state.v.tolist()) == ([0.0], [0.25])
    state = strategy.step(state, Aggregate(1, np.array([2.0], np.float32), 9.0, 3, {}))
    # m = 0.5 * 2 = 1;  v = 0.75 * 0.25 + 0.25 * 4 = 1.1875
    assert (state.m.tolist(), state.v.tolist()) == ([1.0], [1.1875])
    first = 1.0 + 0.1 * 1.0 / (sqrt(1.1875) + 0.5)
    assert close(state.params, [first])
    state = strategy.step(state, Aggregate(2, np.array([-1.0], np.float32), 9.0, 3, {}))
    # m = 0.5 * 1 - 0.5 = 0;  v = 0.75 * 1.1875 + 0.25 = 1.140625
    assert (state.m.tolist(), state.v.tolist()) == ([0.0], [1.140625])
    assert close(state.params, [first])


def test_fedyogi_two_rounds_by_hand() -> None:
    strategy = FedYogi(0.1, beta1=0.5, beta2=0.75, tau=0.5)
    state = strategy.init(np.array([1.0, 1.0], np.float32))
    assert state.v.tolist() == [0.25, 0.25]
    state = strategy.step(state, Aggregate(1, np.array([2.0, 0.25], np.float32), 9.0, 3, {}))
    # v below 4 goes up: 0.25 + 0.25 * 4;  v above 0.0625 goes down: 0.25 - 0.25 * 0.0625
    assert state.v.tolist() == [1.25, 0.234375]
    assert state.m.tolist() == [1.0, 0.125]
    first = [1.0 + 0.1 * 1.0 / (sqrt(1.25) + 0.5), 1.0 + 0.1 * 0.125 / (sqrt(0.234375) + 0.5)]
    assert close(state.params, first)
    state = strategy.step(state, Aggregate(2, np.array([0.0, 1.0], np.float32), 9.0, 3, {}))
    # no change leaves v;  0.234375 + 0.25 * 1
    assert state.v.tolist() == [1.25, 0.484375]
    assert state.m.tolist() == [0.5, 0.5625]
    second = [
        first[0] + 0.1 * 0.5 / (sqrt(1.25) + 0.5),
        first[1] + 0.1 * 0.5625 / (sqrt(0.484375) + 0.5),
    ]
    assert close(state.params, second)


def test_fedadagrad_two_rounds_by_hand() -> None:
    strategy = FedAdagrad(0.1, beta1=0.5, tau=0.5)
    state = strategy.init(np.array([1.0], np.float32))
    state = strategy.step(state, Aggregate(1, np.array([2.0], np.float32), 9.0, 3, {}))
    assert (state.m.tolist(), state.v.tolist()) == ([1.0], [4.25])
    first = 1.0 + 0.1 * 1.0 / (sqrt(4.25) + 0.5)
    assert close(state.params, [first])
    state = strategy.step(state, Aggregate(2, np.array([-1.0], np.float32), 9.0, 3, {}))
    assert (state.m.tolist(), state.v.tolist()) == ([0.0], [5.25])
    assert close(state.params, [first])


def next_v(name: str, v: float, d: float, beta2: float) -> float:
    """The second moment of the paper's algorithm 2."""
    if name == "fedadam":
        return beta2 * v + (1 - beta2) * d * d
    if name == "fedyogi":
        return v - (1 - beta2) * d * d * ((v > d * d) - (v < d * d))
    return v + d * d


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
@pytest.mark.parametrize("tau", [1e-3, 1e-8])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_against_the_equations_in_float64(kind: type, tau: float, rounds: int) -> None:
    beta1, beta2, lr = 0.9, 0.99, 0.03
    betas = {"beta1": beta1} | ({} if kind is FedAdagrad else {"beta2": beta2})
    strategy = kind(lr, tau=tau, **betas)
    state = run(strategy, rounds)
    for i in range(len(START)):
        w, m, v = START[i], 0.0, tau * tau
        for change in CHANGES[:rounds]:
            d = float(np.float32(change[i]))
            m = beta1 * m + (1 - beta1) * d
            v = next_v(strategy.name, v, d, beta2)
            w += lr * m / (sqrt(v) + tau)
        assert close(state.m[i], m)
        assert close(state.v[i], v)
        assert close(state.params[i], w)


def test_there_is_no_bias_correction() -> None:
    """The first step of Adam with correction is the whole rate; without it, a fraction."""
    strategy = FedAdam(0.01, beta1=0.9, beta2=0.999, tau=1e-8)
    state = strategy.init(np.zeros(1, np.float32))
    state = strategy.step(state, Aggregate(1, np.ones(1, np.float32), 9.0, 3, {}))
    assert float(state.params[0]) == pytest.approx(0.01 * 0.1 / sqrt(0.001), rel=1e-5)


def test_the_defaults_are_those_of_the_papers_experiments() -> None:
    assert (FedAdam().beta1, FedAdam().beta2, FedAdam().tau) == (0.9, 0.99, 1e-3)
    assert (FedYogi().beta1, FedYogi().beta2, FedYogi().tau) == (0.9, 0.99, 1e-3)
    assert (FedAdagrad().beta1, FedAdagrad().tau) == (0.0, 1e-3)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
def test_terms(kind: type) -> None:
    state = kind().init(np.zeros(1, np.float32))
    assert kind().plan(state, 1) == Terms("examples", 0.0)
    assert kind(weighting="uniform").plan(state, 1) == Terms("uniform", 0.0)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
@pytest.mark.parametrize(
    ("argument", "value"),
    [("server_lr", 0.0), ("beta1", 1.0), ("beta1", -0.1), ("tau", 0.0), ("tau", float("nan"))],
)
def test_a_bad_argument_is_refused(kind: type, argument: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.name}\.{argument} {value}: expected"):
        kind(**{argument: value})


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_beta2_is_checked_too(kind: type) -> None:
    with pytest.raises(ConfigError, match="beta2 1: expected"):
        kind(beta2=1)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
def test_the_smallest_tau_gives_a_finite_step(kind: type) -> None:
    strategy = kind(tau=1e-15)
    state = strategy.init(np.zeros(2, np.float32))
    assert (state.v > 0).all()
    state = strategy.step(state, Aggregate(1, np.array([1e-30, 0.0], np.float32), 9.0, 3, {}))
    assert np.isfinite(state.params).all()
