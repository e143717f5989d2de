"""The lines that FedAdagrad, FedAdam and FedYogi share; their second moments are their own.

    m' = beta1 * m + (1 - beta1) * delta,   m = 0 before the first round
    w' = w + server_lr * m' / (sqrt(v') + tau),   v = tau^2 before the first round

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated
Optimization", ICLR 2021, algorithm 2, which asks for a first v of at least tau^2. Neither moment is
corrected for its start: algorithm 2 has no such correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from choral.core.checks import one_of, real
from choral.core.params import Vector
from choral.core.plan import WEIGHTINGS

BOUNDS: Final[dict[str, dict[str, float]]] = {
    "server_lr": {"above": 0, "most": 1e6},
    "beta1": {"least": 0, "below": 1},
    "beta2": {"least": 0, "below": 1},
    "tau": {"least": 1e-15, "most": 1e6},  # float32 still holds the square of the smallest
}


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The model and the moments of the rounds' mean changes.

    Attributes:
        params: float32, shape `[spec.shared_size]`.
        m: First moment, float32, same shape.
        v: Second moment, float32, same shape, above 0.
    """

    params: Vector
    m: Vector
    v: Vector


def check_arguments(strategy: Any, name: str) -> None:
    """Turn the numbers of an adaptive strategy into floats, or raise `ConfigError`."""
    for argument, bounds in BOUNDS.items():
        if hasattr(strategy, argument):
            value = real(f"{name}.{argument}", getattr(strategy, argument), **bounds)
            object.__setattr__(strategy, argument, value)
    one_of(f"{name}.weighting", strategy.weighting, WEIGHTINGS)


def first_moments(params: Vector, tau: float) -> Moments:
    """Return the state before the first round."""
    return Moments(params, np.zeros_like(params), np.full_like(params, tau * tau))


def smoothed(m: Vector, delta: Vector, beta1: float) -> Vector:
    """Return the next first moment."""
    return beta1 * m + (1 - beta1) * delta


def moved(state: Moments, m: Vector, v: Vector, server_lr: float, tau: float) -> Moments:
    """Return the state whose model went one step along `m`, scaled by `v`."""
    step = np.sqrt(v)
    step += tau
    np.divide(m, step, out=step)
    step *= server_lr
    step += state.params
    return Moments(step, m, v)
