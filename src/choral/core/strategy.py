"""Strategies: how an aggregate moves the model. Pure, without loop, clock or randomness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from choral.core.params import Vector
from choral.core.plan import Metrics, Terms

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round's clients contributed together.

    Attributes:
        round: Counted from 1.
        delta: Weighted mean change of the shared tensors, float32, shape `[spec.shared_size]`.
        weight: Sum of the weights.
        count: Number of contributions.
        metrics: Weighted means of what clients measured, such as `train_loss`.
    """

    round: int
    delta: Vector
    weight: float
    count: int
    metrics: Metrics


class Strategy(Protocol[S]):
    """One federated optimiser. The state is a frozen dataclass of arrays, numbers and None.

    Its field `params` holds the shared tensors as one float32 vector. A strategy never changes an
    array that it was given: it returns a new state.

    A strategy may also have `elementwise = True`: its state is `params` alone, and `step` does to
    each element the same whatever the others are. A model then needs less memory in a step.
    """

    @property
    def name(self) -> str:
        """The paper's name in lower case, as configuration writes it."""
        ...

    def init(self, params: Vector) -> S:
        """Return the state before the first round."""
        ...

    def plan(self, state: S, round: int) -> Terms:
        """Return what the strategy asks of the clients in `round` (from 1)."""
        ...

    def step(self, state: S, aggregate: Aggregate) -> S:
        """Return the state after a round."""
        ...


AnyStrategy = Strategy[Any]
