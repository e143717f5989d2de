"""Classes that lack a part of a protocol."""

from dataclasses import dataclass
from typing import Any

from choral.core.keys import Key
from choral.core.params import Params, Vector
from choral.core.plan import Plan, Terms
from choral.core.strategy import Aggregate, Strategy
from choral.core.task import Task
from choral.core.transform import Reducer
from choral.core.update import Update


@dataclass(frozen=True)
class NoStep:
    """A strategy that goes nowhere."""

    name: str = "no_step"

    def init(self, params: Vector) -> Vector:
        """Start."""
        return params

    def plan(self, state: Vector, round: int) -> Terms:
        """Ask for nothing special."""
        return Terms()


@dataclass(frozen=True)
class OtherState(NoStep):
    """A strategy whose step returns something else than its state."""

    def step(self, state: Vector, aggregate: Aggregate) -> str:
        """Return a word."""
        return "done"


class ReturnsParams:
    """A task that returns a model where an update is asked for."""

    def init(self, key: Key) -> Params:
        """Start."""
        return Params({})

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Params:
        """Return the model."""
        return params

    def evaluate(self, params: Params, data: Any) -> dict[str, float]:
        """Be content."""
        return {}


@dataclass(frozen=True)
class Kindless:
    """A reducer that does not say what it needs."""

    name: str = "kindless"


one: Strategy[Vector] = NoStep()  # expect: assignment
two: Strategy[Vector] = OtherState()  # expect: assignment
three: Task = ReturnsParams()  # expect: assignment
four: Reducer = Kindless()  # expect: assignment
five: Update = Update([0.0], 1.0)  # expect: arg-type
