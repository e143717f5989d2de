"""FedAvg: the weighted mean of the clients' models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from choral.core.checks import one_of, real
from choral.core.params import Vector
from choral.core.plan import WEIGHTINGS, Terms
from choral.core.strategy import Aggregate


@dataclass(frozen=True, slots=True, eq=False)
class FedAvgState:
    """The model.

    Attributes:
        params: float32, shape `[spec.shared_size]`.
    """

    params: Vector


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Move the model by the weighted mean of the clients' changes.

        w' = w + server_lr * sum_k(p_k * (w_k - w)),   p_k = weight_k / sum(weights)

    With `server_lr` 1 this is w' = sum_k(p_k * w_k), the mean of the clients' models.

    Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of
    Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1.

    What differs: the paper has no server learning rate (it is 1 there), and weights by examples
    alone. Client learning rate, epochs and batch size are settings of the run (`local:`).

    Args:
        weighting: `examples` weighs a client by its number of training examples, `uniform` by 1.
        server_lr: Step along the mean change, in (0, 1e6].

    Raises:
        ConfigError: An argument is out of its range.

    >>> import numpy as np
    >>> fedavg = FedAvg()
    >>> state = fedavg.init(np.array([1.0, 2.0], np.float32))
    >>> round_one = Aggregate(1, np.array([0.5, -1.0], np.float32), weight=30, count=2, metrics={})
    >>> fedavg.step(state, round_one).params.tolist()
    [1.5, 1.0]
    """

    name: ClassVar[str] = "fedavg"
    elementwise: ClassVar[bool] = True

    weighting: str = "examples"
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        one_of(f"{self.name}.weighting", self.weighting, WEIGHTINGS)
        server_lr = real(f"{self.name}.server_lr", self.server_lr, above=0, most=1e6)
        object.__setattr__(self, "server_lr", server_lr)

    def init(self, params: Vector) -> FedAvgState:
        """Return the state before the first round."""
        return FedAvgState(params)

    def plan(self, state: FedAvgState, round: int) -> Terms:
        """Return the weighting; the local objective is the task's own loss."""
        return Terms(weighting=self.weighting)

    def step(self, state: FedAvgState, aggregate: Aggregate) -> FedAvgState:
        """Return the state after a round."""
        return FedAvgState(state.params + self.server_lr * aggregate.delta)
