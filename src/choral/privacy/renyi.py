"""Rényi divergences that dp-accounting has no event for: Skellam noise, sums of discrete Gaussians.

Both take the sensitivity of the neighbouring relation that is asked for, already doubled where it
is `replace`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from choral.core.errors import PlanError


def skellam_divergence(
    orders: Sequence[float], *, variance: float, l2: float, l1: float
) -> npt.NDArray[np.float64]:
    r"""Return a bound of the Rényi divergence of Skellam noise.

        eps(a) <= a l2^2 / (2 V) + min(((2a - 1) l2^2 + 6 l1) / (4 V^2), 3 l1 / (2 V))

    Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated
    Learning", 2021 (arXiv 2110.04995), theorem 3.5 for one coordinate
    and corollary 3.6 for vectors, in terms of the total variance V.

    Args:
        orders: Rényi orders. It is proven for whole ones from 2; another one has the bound of the
            next whole one, since divergences grow with their order.
        variance: V, of one coordinate of the sum of the noise, above 0.
        l2: L2 sensitivity, in units of the grid.
        l1: L1 sensitivity, in units of the grid.

    Returns:
        float64, as many as orders.

    >>> skellam_divergence([2, 2.5, 3], variance=100.0, l2=1.0, l1=1.0).round(6).tolist()
    [0.010225, 0.015275, 0.015275]
    """
    a = np.maximum(np.ceil(np.asarray(orders, np.float64)), 2.0)
    near = ((2 * a - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    bound: npt.NDArray[np.float64]
    bound = a * l2**2 / (2 * variance) + np.minimum(near, 3 * l1 / (2 * variance))
    return bound


def gaussian_sum_rho(*, addends: int, sigma: float, l2: float, dimension: int) -> float:
    r"""Return rho of the zero-concentrated privacy of a sum of discrete Gaussians.

    With s the parameter of each of the n addends, rho = e^2 / 2 and

        e = min(sqrt(l2^2 / (n s^2) + t d / 2), l2 / (sqrt(n) s) + t sqrt(d)),
        t = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k + 1)).

    For n = 1, t is 0 and rho = l2^2 / (2 s^2): Canonne, Kamath, Steinke 2020 (arXiv 2004.00010),
    theorem 4. Source of the sum: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian
    Mechanism for Federated Learning with Secure Aggregation", 2021 (arXiv 2102.06387), theorem 1.

    Args:
        addends: n.
        sigma: Standard deviation of the whole sum, sqrt(n) s.
        l2: L2 sensitivity, in units of the grid.
        dimension: d; needed where n is above 1.

    Raises:
        PlanError: A sum of several without a dimension.

    >>> gaussian_sum_rho(addends=1, sigma=2.0, l2=1.0, dimension=0)
    0.125
    """
    if addends > 1 and not dimension:
        raise PlanError("a sum of discrete Gaussians needs its dimension for its accounting")
    one = sigma**2 / addends
    off = 10 * sum(math.exp(-2 * math.pi**2 * one * k / (k + 1)) for k in range(1, addends))
    together = math.sqrt((l2 / sigma) ** 2 + off * dimension / 2)
    apart = l2 / sigma + off * math.sqrt(dimension)
    return min(together, apart) ** 2 / 2
