"""FedYogi: Yogi at the server."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from choral.core.params import Vector
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies.moments import Moments, check_arguments, first_moments, moved, smoothed


@dataclass(frozen=True, slots=True)
class FedYogi:
    """FedAdam whose second moment moves by a bounded amount, whatever its size.

        m' = beta1 * m + (1 - beta1) * delta
        v' = v - (1 - beta2) * delta^2 * sign(v - delta^2)
        w' = w + server_lr * m' / (sqrt(v') + tau)

    Before the first round m = 0 and v = tau^2. Where FedAdam forgets a large v within about
    1 / (1 - beta2) rounds, here it goes down by (1 - beta2) * delta^2 only, so that a few quiet
    rounds do not make the steps large. v stays above 0: it falls only while it is above delta^2,
    and by less than that.

    Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2. Without bias
    correction, as there.

    What differs: the paper asks for a first v of at least tau^2; here it is tau^2. The paper's
    algorithm takes the plain mean of the clients: that is `weighting="uniform"`.

    FLamby's benchmark of Fed-Heart-Disease used `server_lr=0.01, beta1=0.9, beta2=0.999,
    tau=1e-8` with a local learning rate of 0.003162 (its `config_heart_disease.json`).

    Args:
        server_lr: In (0, 1e6]. The paper tunes it for each task.
        beta1: Decay of the first moment, in [0, 1).
        beta2: 1 - beta2 is the rate of the second moment, in [0, 1).
        tau: Degree of adaptivity, in [1e-15, 1e6], in the unit of the parameters: changes well
            below it are not scaled up. The paper's experiments use 1e-3.
        weighting: `examples` weighs a client by its number of training examples, `uniform` by 1.

    Raises:
        ConfigError: An argument is out of its range.
    """

    name: ClassVar[str] = "fedyogi"

    server_lr: float = 0.01
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    weighting: str = "examples"

    def __post_init__(self) -> None:
        check_arguments(self, self.name)

    def init(self, params: Vector) -> Moments:
        """Return the state before the first round."""
        return first_moments(params, self.tau)

    def plan(self, state: Moments, round: int) -> Terms:
        """Return the weighting; the local objective is the task's own loss."""
        return Terms(weighting=self.weighting)

    def step(self, state: Moments, aggregate: Aggregate) -> Moments:
        """Return the state after a round."""
        m = smoothed(state.m, aggregate.delta, self.beta1)
        square = aggregate.delta**2
        v = state.v - (1 - self.beta2) * square * np.sign(state.v - square)
        return moved(state, m, v, self.server_lr, self.tau)
