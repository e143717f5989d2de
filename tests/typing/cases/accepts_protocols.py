"""Plain classes that fit the protocols of the core, without inheriting from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from choral.core.exact import Total
from choral.core.keys import Key
from choral.core.params import Array, ClientId, Params, Spec, Vector
from choral.core.plan import Plan, Terms
from choral.core.selection import Draft, History, Population, Selector, Strata
from choral.core.strategy import Aggregate, AnyStrategy, Strategy
from choral.core.task import Task
from choral.core.transform import Declared, Kind, Reducer, Transform, WeightedMean, check_chain
from choral.core.update import Update


@dataclass(frozen=True, slots=True)
class State:
    """A strategy's state."""

    params: Vector


@dataclass(frozen=True, slots=True)
class Half:
    """A strategy."""

    name: str = "half"

    def init(self, params: Vector) -> State:
        """Start."""
        return State(params)

    def plan(self, state: State, round: int) -> Terms:
        """Ask for nothing special."""
        return Terms()

    def step(self, state: State, aggregate: Aggregate) -> State:
        """Go half of the way."""
        return State(state.params + np.float32(0.5) * aggregate.delta)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A transform."""

    name: str = "nothing"
    declared: Declared = field(default_factory=Declared)

    def encode(self, update: Update, spec: Spec, plan: Plan, key: Key) -> Update:
        """Change nothing."""
        return update

    def decode(self, total: Total, spec: Spec, plan: Plan) -> Total:
        """Change nothing."""
        return total


@dataclass(frozen=True, slots=True)
class Median:
    """A reducer."""

    name: str = "median"
    kind: Kind = Kind.EACH


@dataclass(frozen=True, slots=True)
class First:
    """A selector."""

    name: str = "first"

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Take the first ones."""
        return tuple(population.ids[: draft.count])


class Everyone:
    """A population."""

    @property
    def ids(self) -> Sequence[ClientId]:
        """Two clients."""
        return (ClientId("a"), ClientId("b"))

    def strata(self, client: ClientId) -> Strata:
        """No labels."""
        return {}


class Toy:
    """A task."""

    def init(self, key: Key) -> Mapping[str, Array]:
        """Start at zero."""
        return {"w": np.zeros(1, np.float32)}

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Stay there."""
        return Update(np.zeros(1, np.float32), 1.0)

    def evaluate(self, params: Params, data: Any) -> Mapping[str, float]:
        """Be content."""
        return {"loss": 0.0}


strategy: Strategy[State] = Half()
any_strategy: AnyStrategy = Half()
transform: Transform = Nothing()
reducers: list[Reducer] = [WeightedMean(), Median()]
selector: Selector = First()
population: Population = Everyone()
task: Task = Toy()
check_chain([Nothing(), transform], reducers[0], "plain")
