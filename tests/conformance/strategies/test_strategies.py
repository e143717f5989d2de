"""The laws that every strategy keeps. A new one enters by its line in `STRATEGIES`."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.core.tensors import decode_tensors, encode_tensors
from choral.strategies import STRATEGIES, build
from choral.strategies.state import load, save

TABLE = [(name, {}) for name in STRATEGIES] + [
    ("fedavg", {"weighting": "uniform"}),
    ("fedavg", {"server_lr": 0.5}),
    ("fedprox", {"mu": 0}),
    ("fedprox", {"mu": 1.0, "weighting": "uniform"}),
    ("fedavgm", {"momentum": 0, "server_lr": 0.5}),
    ("fedavgm", {"momentum": 0.5, "weighting": "uniform"}),
    ("fedadam", {"beta2": 0.999, "tau": 1e-8}),
    ("fedadam", {"beta1": 0, "weighting": "uniform"}),
    ("fedyogi", {"beta2": 0.999, "tau": 1e-8}),
    ("fedyogi", {"weighting": "uniform"}),
    ("fedadagrad", {"beta1": 0.9, "tau": 1e-8}),
    ("fedadagrad", {"weighting": "uniform"}),
]
every = pytest.mark.parametrize(("name", "arguments"), TABLE, ids=str)
SIZES = [0, 1, 7]


def frozen(values: object) -> np.ndarray:
    """A float32 vector that nobody can write to."""
    vector = np.array(values, np.float32).reshape(-1)
    vector.flags.writeable = False
    return vector


def draws(size: int, *, seed: int) -> np.ndarray:
    """A read-only float32 vector of normal draws."""
    return frozen(np.random.default_rng(seed).normal(size=size))


def aggregate(round: int, delta: np.ndarray) -> Aggregate:
    return Aggregate(round, delta, weight=12.0, count=3, metrics={"train_loss": 0.5})


def locked(state: object) -> object:
    """The state, with all its arrays read-only."""
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return state


def walk(strategy: object, params: np.ndarray, rounds: int) -> object:
    """The state after some rounds of fixed changes, every array read-only on the way."""
    state = locked(strategy.init(params))
    for at in range(1, rounds + 1):
        state = locked(strategy.step(state, aggregate(at, draws(params.size, seed=at))))
    return state


def bits(state: object) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything in a state, to the bit."""
    return {n: (a.dtype.name, a.shape, a.tobytes()) for n, a in save(state).items()}


def test_every_strategy_enters() -> None:
    assert {name for name, _ in TABLE} == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_name_is_the_key_and_every_argument_has_a_default(name: str) -> None:
    assert build(name).name == name


@every
def test_a_strategy_is_a_value(name: str, arguments: dict) -> None:
    strategy = build(name, **arguments)
    assert strategy == build(name, **arguments)
    assert hash(strategy) == hash(build(name, **arguments))
    assert type(strategy).__dataclass_params__.frozen
    assert not hasattr(strategy, "__dict__"), "slots=True is missing"


@every
def test_a_state_is_a_frozen_dataclass(name: str, arguments: dict) -> None:
    state = build(name, **arguments).init(frozen([1.0]))
    assert type(state).__dataclass_params__.frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.params = state.params


@every
@pytest.mark.parametrize("size", SIZES)
def test_init_keeps_the_parameters(name: str, arguments: dict, size: int) -> None:
    params = draws(size, seed=0)
    state = build(name, **arguments).init(params)
    assert state.params.tobytes() == params.tobytes()


@every
@pytest.mark.parametrize("size", SIZES)
def test_nothing_given_is_changed(name: str, arguments: dict, size: int) -> None:
    strategy = build(name, **arguments)
    params, delta = draws(size, seed=0), draws(size, seed=9)
    state = walk(strategy, params, 2)
    before = bits(state), params.tobytes(), delta.tobytes()
    strategy.plan(state, 3)
    strategy.step(state, aggregate(3, delta))
    assert (bits(state), params.tobytes(), delta.tobytes()) == before


@every
@pytest.mark.parametrize("size", SIZES)
def test_equal_inputs_give_equal_bits(name: str, arguments: dict, size: int) -> None:
    params = draws(size, seed=0)
    first = walk(build(name, **arguments), params, 4)
    again = walk(build(name, **arguments), params.copy(), 4)
    assert bits(first) == bits(again)


@every
@pytest.mark.parametrize("size", SIZES)
def test_shape_and_dtype_stay(name: str, arguments: dict, size: int) -> None:
    strategy = build(name, **arguments)
    states = [walk(strategy, draws(size, seed=0), rounds) for rounds in range(4)]
    for state in states:
        assert state.params.dtype == np.float32
        assert state.params.shape == (size,)
        assert np.isfinite(state.params).all()
    for old, new in itertools.pairwise(states):
        assert [(n, a[:2]) for n, a in bits(old).items()] == [
            (n, a[:2]) for n, a in bits(new).items()
        ]


@every
def test_a_fresh_model_stays_where_nothing_changed(name: str, arguments: dict) -> None:
    strategy = build(name, **arguments)
    params = draws(5, seed=0)
    state = strategy.step(strategy.init(params), aggregate(1, np.zeros(5, np.float32)))
    assert np.array_equal(state.params, params)


@every
def test_a_change_moves_the_model(name: str, arguments: dict) -> None:
    strategy = build(name, **arguments)
    params, delta = draws(5, seed=0), draws(5, seed=1)
    state = strategy.step(strategy.init(params), aggregate(1, delta))
    assert (state.params != params).all()


@every
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_the_state_survives_storage(name: str, arguments: dict, size: int, rounds: int) -> None:
    strategy = build(name, **arguments)
    params = draws(size, seed=0)
    state = walk(strategy, params, rounds)
    stored = decode_tensors(b"".join(encode_tensors(save(state))))
    restored = load(strategy.init(np.zeros_like(params)), stored)
    assert type(restored) is type(state)
    assert bits(restored) == bits(state)
    change = aggregate(rounds + 1, draws(size, seed=77))
    assert bits(strategy.step(restored, change)) == bits(strategy.step(state, change))


@every
def test_terms_are_valid(name: str, arguments: dict) -> None:
    strategy = build(name, **arguments)
    for rounds in range(3):
        state = walk(strategy, draws(3, seed=0), rounds)
        terms = strategy.plan(state, rounds + 1)
        assert isinstance(terms, Terms)
        assert terms.weighting in {"examples", "uniform"}
        assert isinstance(terms.mu, float)
        assert 0 <= terms.mu < np.inf


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    row=st.sampled_from(TABLE),
    pair=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).map(lambda s: (2, s[1])),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
)
def test_finite_changes_give_finite_models(row: tuple[str, dict], pair: np.ndarray) -> None:
    strategy = build(row[0], **row[1])
    state = strategy.init(frozen(pair[0]))
    for at in range(1, 4):
        state = strategy.step(state, aggregate(at, frozen(pair[1] * (-1) ** at)))
    assert state.params.dtype == np.float32
    assert all(np.isfinite(a).all() for a in save(state).values())


CENTRES = np.array([[1.0, 0.0, 2.0], [3.0, -1.0, 0.0], [-1.0, 1.0, 1.0]])
EXAMPLES = np.array([10.0, 30.0, 20.0])


def train(params: np.ndarray, centre: np.ndarray, mu: float) -> np.ndarray:
    """Five steps of gradient descent on |w - centre|^2 / 2 plus the pull; the change."""
    w = params.astype(np.float64)
    for _ in range(5):
        w -= 0.1 * ((w - centre) + mu * (w - params))
    return w - params


@every
def test_a_quadratic_federation_is_solved(name: str, arguments: dict) -> None:
    """Three clients, each with its own minimum; the answer depends on the weighting asked for."""
    strategy = build(name, **arguments)
    state = strategy.init(np.zeros(3, np.float32))
    for at in range(1, 801):
        terms = strategy.plan(state, at)
        weights = EXAMPLES if terms.weighting == "examples" else np.ones(3)
        changes = np.stack([train(state.params, centre, terms.mu) for centre in CENTRES])
        delta = np.average(changes, axis=0, weights=weights).astype(np.float32)
        state = strategy.step(state, Aggregate(at, delta, weights.sum(), 3, {}))
    by_examples = arguments.get("weighting", "examples") == "examples"
    answer = np.average(CENTRES, axis=0, weights=EXAMPLES if by_examples else None)
    assert np.abs(state.params - answer).max() < 0.02
