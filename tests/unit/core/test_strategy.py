"""The seam between an aggregate and a model, with the smallest strategy that fits it."""

import dataclasses

import numpy as np

from choral.core.params import Vector
from choral.core.plan import Terms
from choral.core.strategy import Aggregate, Strategy


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """Where the toy strategy is."""

    params: Vector


@dataclasses.dataclass(frozen=True, slots=True)
class Half:
    """Goes half of the way."""

    name: str = "half"

    def init(self, params: Vector) -> State:
        return State(params)

    def plan(self, state: State, round: int) -> Terms:
        return Terms(mu=1.0 / round)

    def step(self, state: State, aggregate: Aggregate) -> State:
        return State(state.params + np.float32(0.5) * aggregate.delta)


def drive(strategy: Strategy[State], start: Vector, delta: Vector) -> State:
    state = strategy.init(start)
    for number in (1, 2):
        state = strategy.step(state, Aggregate(number, delta, 4.0, 2, {"train_loss": 0.5}))
    return state


def test_a_strategy_is_three_functions_and_a_name() -> None:
    start = np.array([1.0, 2.0], np.float32)
    start.flags.writeable = False
    assert drive(Half(), start, np.array([2.0, -4.0], np.float32)).params.tolist() == [3.0, -2.0]
    assert Half().plan(Half().init(start), round=4).mu == 0.25


def test_an_aggregate_carries_what_it_was_given() -> None:
    delta = np.zeros(2, np.float32)
    found = Aggregate(round=3, delta=delta, weight=7.0, count=2, metrics={"train_loss": 0.5})
    assert found.delta is delta
    assert (found.round, found.weight, found.count, found.metrics["train_loss"]) == (3, 7.0, 2, 0.5)
