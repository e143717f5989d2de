"""FedAvgM: FedAvg with momentum at the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from choral.core.checks import one_of, real
from choral.core.params import Vector
from choral.core.plan import WEIGHTINGS, Terms
from choral.core.strategy import Aggregate


@dataclass(frozen=True, slots=True, eq=False)
class FedAvgMState:
    """The model and its velocity.

    Attributes:
        params: float32, shape `[spec.shared_size]`.
        velocity: Decaying sum of the mean changes, float32, same shape.
    """

    params: Vector
    velocity: Vector


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """Move the model by a decaying sum of the rounds' mean changes.

        v' = momentum * v + delta,   v = 0 before the first round
        w' = w + server_lr * v'

    Source: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", 2019 (arXiv 1909.06335), its section on server momentum.

    What differs: the paper writes the change as old minus new, hence its opposite sign, and has no
    server learning rate (it is 1 there). This is plain momentum, without Nesterov's look-ahead.

    Args:
        server_lr: Step along the velocity, in (0, 1e6]. A constant change of d moves the model by
            server_lr * d / (1 - momentum) a round in the end, so a larger momentum asks for a
            smaller step.
        momentum: What is kept of the velocity each round, in [0, 1). 0 is FedAvg.
        weighting: `examples` weighs a client by its number of training examples, `uniform` by 1.

    Raises:
        ConfigError: An argument is out of its range.
    """

    name: ClassVar[str] = "fedavgm"

    server_lr: float = 1.0
    momentum: float = 0.9
    weighting: str = "examples"

    def __post_init__(self) -> None:
        server_lr = real(f"{self.name}.server_lr", self.server_lr, above=0, most=1e6)
        momentum = real(f"{self.name}.momentum", self.momentum, least=0, below=1)
        object.__setattr__(self, "server_lr", server_lr)
        object.__setattr__(self, "momentum", momentum)
        one_of(f"{self.name}.weighting", self.weighting, WEIGHTINGS)

    def init(self, params: Vector) -> FedAvgMState:
        """Return the state before the first round: no velocity."""
        return FedAvgMState(params, np.zeros_like(params))

    def plan(self, state: FedAvgMState, round: int) -> Terms:
        """Return the weighting; the local objective is the task's own loss."""
        return Terms(weighting=self.weighting)

    def step(self, state: FedAvgMState, aggregate: Aggregate) -> FedAvgMState:
        """Return the state after a round."""
        velocity = self.momentum * state.velocity + aggregate.delta
        return FedAvgMState(state.params + self.server_lr * velocity, velocity)
