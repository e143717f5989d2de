"""FedProx: FedAvg whose clients are held near the global model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from choral.core.checks import one_of, real
from choral.core.params import Vector
from choral.core.plan import WEIGHTINGS, Terms
from choral.core.strategy import Aggregate


@dataclass(frozen=True, slots=True, eq=False)
class FedProxState:
    """The model.

    Attributes:
        params: float32, shape `[spec.shared_size]`.
    """

    params: Vector


@dataclass(frozen=True, slots=True)
class FedProx:
    """Average models that each client trained on its loss plus a pull towards the global model.

        client k:  minimise  F_k(u) + mu / 2 * ||u - w||^2   over u, from u = w
        server:    w' = w + sum_k(p_k * (u_k - w)),   p_k = weight_k / sum(weights)

    The clients' gradient is that of F_k plus mu * (u - w), the common form of local objectives.

    Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous
    Networks", MLSys 2020, equation 2 and algorithm 2.

    What differs: the paper draws clients with a probability that grows with their examples and
    then takes the plain mean; here the selection decides who takes part and `weighting` how much
    each counts. Its slow clients send partial work; here each client does the work of the plan.

    Args:
        mu: Strength of the pull, in [0, 1e6]. 0 is FedAvg; the paper tunes it over 0.001 to 1.
            For plain gradient descent, local learning rate times mu should stay below 1.
        weighting: `examples` weighs a client by its number of training examples, `uniform` by 1.

    Raises:
        ConfigError: An argument is out of its range.

    >>> import numpy as np
    >>> fedprox = FedProx(mu=0.1)
    >>> state = fedprox.init(np.zeros(2, np.float32))
    >>> fedprox.plan(state, round=1)
    Terms(weighting='examples', mu=0.1)
    """

    name: ClassVar[str] = "fedprox"

    mu: float = 0.01
    weighting: str = "examples"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", real(f"{self.name}.mu", self.mu, least=0, most=1e6))
        one_of(f"{self.name}.weighting", self.weighting, WEIGHTINGS)

    def init(self, params: Vector) -> FedProxState:
        """Return the state before the first round."""
        return FedProxState(params)

    def plan(self, state: FedProxState, round: int) -> Terms:
        """Return the weighting and the pull."""
        return Terms(weighting=self.weighting, mu=self.mu)

    def step(self, state: FedProxState, aggregate: Aggregate) -> FedProxState:
        """Return the state after a round."""
        return FedProxState(state.params + aggregate.delta)
