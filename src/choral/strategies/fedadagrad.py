"""FedAdagrad: Adagrad at the server."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from choral.core.params import Vector
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies.moments import Moments, check_arguments, first_moments, moved, smoothed


@dataclass(frozen=True, slots=True)
class FedAdagrad:
    """Scale each parameter's step by the sum of all its squared changes.

        m' = beta1 * m + (1 - beta1) * delta
        v' = v + delta^2
        w' = w + server_lr * m' / (sqrt(v') + tau)

    Before the first round m = 0 and v = tau^2. Since v only grows, steps become smaller from round
    to round without a schedule.

    Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2.

    What differs: the paper asks for a first v of at least tau^2; here it is tau^2. The paper's
    algorithm takes the plain mean of the clients: that is `weighting="uniform"`. FedAdagrad has no
    beta2.

    FLamby's benchmark of Fed-Heart-Disease used `server_lr=0.316228, beta1=0.9, tau=1e-8` with a
    local learning rate of 0.003162 (its `config_heart_disease.json`).

    Args:
        server_lr: In (0, 1e6]. The paper tunes it for each task.
        beta1: Decay of the first moment, in [0, 1). The paper's experiments use 0 here.
        tau: Degree of adaptivity, in [1e-15, 1e6], in the unit of the parameters: changes well
            below it are not scaled up. The paper's experiments use 1e-3.
        weighting: `examples` weighs a client by its number of training examples, `uniform` by 1.

    Raises:
        ConfigError: An argument is out of its range.
    """

    name: ClassVar[str] = "fedadagrad"

    server_lr: float = 0.1
    _: KW_ONLY
    beta1: float = 0.0
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
        v = state.v + aggregate.delta**2
        return moved(state, m, v, self.server_lr, self.tau)
