"""One adapter for each accountant of dp-accounting, since their conventions differ.

| relation | accountant | what it wants | what it does |
|---|---|---|---|
| `add_remove`, `zero_out` | PLD, RDP | noise over the bound of one update | uses it |
| `replace` | PLD | noise over the bound of one update | doubles the bound itself |
| `replace` | RDP | noise over the distance of two updates, twice the bound | uses it |

Everything above this file gives the bound of one update, and only this file knows the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import MissingExtra, PlanError
from choral.privacy.renyi import gaussian_sum_rho, skellam_divergence
from choral.privacy.vocabulary import (
    Mechanism,
    MinSeparation,
    NoSampling,
    Poisson,
    Relation,
    Release,
    WithoutReplacement,
)

Counts: TypeAlias = Mapping[Release, int]
"""Releases and how often each is made; composition does not depend on their order."""

Tradeoff: TypeAlias = Callable[[float], float]
"""From a delta to the epsilon that goes with it; infinity where there is none."""

ORDERS: Final[tuple[float, ...]] = (
    *(x / 4 for x in range(8, 40)),
    *range(10, 64),
    *(72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024, 2048),
)
"""Rényi orders; the whole ones among them serve Skellam noise.

None is below 2, where the series of sampled Gaussians does not always converge.
"""


def library() -> ModuleType:
    """Return dp-accounting.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import dp_accounting
    except ImportError:
        raise MissingExtra(
            "the accountant of differential privacy is not installed",
            hint="pip install 'choral[dp]'",
        ) from None
    return dp_accounting  # type: ignore[no-any-return]


def _neighbours(relation: Relation) -> Any:
    known = library().NeighboringRelation
    return {
        Relation.ADD_REMOVE: known.ADD_OR_REMOVE_ONE,
        Relation.REPLACE: known.REPLACE_ONE,
        Relation.ZERO_OUT: known.REPLACE_SPECIAL,
    }[relation]


def participations(release: Release) -> int:
    """Return how often one unit takes part in a release that covers many rounds."""
    sampling = release.sampling
    return sampling.participations if isinstance(sampling, MinSeparation) else 1


# --- the exact formula of the Gaussian ------------------------------------------------------------


def unsampled_multiplier(releases: Counts) -> float:
    """Return the noise multiplier of one Gaussian release that is as good as all of these."""
    inverse = sum(
        count * participations(r) / r.multiplier**2 if r.sigma else math.inf
        for r, count in releases.items()
    )
    return inverse**-0.5 if inverse else math.inf


def gaussian_tradeoff(releases: Counts, relation: Relation) -> Tradeoff:
    """Return the tradeoff of Gaussian releases without sampling: Gaussians compose to one.

    Exact (Balle and Wang 2018, arXiv 1805.06530, theorem 8); twice the bound under `replace`.
    """
    z = unsampled_multiplier(releases) / (2.0 if relation is Relation.REPLACE else 1.0)
    if not z:
        return lambda delta: math.inf
    find = library().get_epsilon_gaussian
    return lambda delta: float(find(z, delta, tol=1e-12)) if delta > 0 else math.inf


# --- privacy loss distributions -------------------------------------------------------------------


INTERVAL: Final = 1e-4
"""Distance of two privacy losses that are told apart; a wider one is quicker and looser."""


@lru_cache(maxsize=64)
def _sampled_loss(multiplier: float, sampling: Poisson, relation: Relation, interval: float) -> Any:
    """Return the loss of one release; a cap is charged by the event of a truncated cohort."""
    library()
    from dp_accounting.pld import privacy_loss_distribution as pld

    if sampling.cap is not None and sampling.population is not None:
        return pld.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=sampling.population,
            sampling_probability=sampling.q,
            truncated_batch_size=sampling.cap,
            noise_multiplier=multiplier,
            value_discretization_interval=interval,
            neighboring_relation=_neighbours(relation),
        )
    return pld.from_gaussian_mechanism(
        standard_deviation=multiplier,
        sampling_prob=sampling.q,
        value_discretization_interval=interval,
        neighboring_relation=_neighbours(relation),
    )


@lru_cache(maxsize=64)
def _repeated_loss(
    multiplier: float, sampling: Poisson, relation: Relation, interval: float, count: int
) -> Any:
    return _sampled_loss(multiplier, sampling, relation, interval).self_compose(count)


def pld_tradeoff(releases: Counts, relation: Relation, *, interval: float = INTERVAL) -> Tradeoff:
    """Return the tradeoff by privacy loss distributions: Gaussians, sampled by Poisson or not.

    Raises:
        PlanError: A release of another mechanism or sampling.
    """
    loss: Any = None
    plain: dict[Release, int] = {}
    for release, count in releases.items():
        sampling = release.sampling
        if release.kind is not Mechanism.GAUSSIAN or isinstance(sampling, WithoutReplacement):
            raise PlanError(
                f"privacy loss distributions do not cover {release.kind.value} noise with sampling "
                f"`{sampling.name}`",
                hint="use the accountant `rdp`",
            )
        if not release.sigma:
            return lambda delta: math.inf
        if isinstance(sampling, Poisson) and sampling.q < 1:
            one = _repeated_loss(release.multiplier, sampling, relation, interval, count)
            loss = one if loss is None else loss.compose(one)
        else:
            plain[release] = count
    if loss is None and not plain:
        return lambda delta: 0.0
    if plain:
        one = _sampled_loss(unsampled_multiplier(plain), Poisson(1.0), relation, interval)
        loss = one if loss is None else loss.compose(one)
    return lambda delta: float(loss.get_epsilon_for_delta(delta)) if delta > 0 else math.inf


# --- Rényi divergences ----------------------------------------------------------------------------


def release_divergence(
    release: Release, relation: Relation, orders: Sequence[float] = ORDERS
) -> npt.NDArray[np.float64]:
    """Return the Rényi divergence of one release at each order, read-only.

    Raises:
        PlanError: The sampling amplifies nothing under this relation, or nothing is proven for it
            with this mechanism.
    """
    return _divergence(release, relation, tuple(orders))


@lru_cache(maxsize=1024)
def _divergence(
    release: Release, relation: Relation, orders: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    far = release.sensitivity * (2.0 if relation is Relation.REPLACE else 1.0)
    if not release.sigma:
        found = np.full(len(orders), np.inf)
    elif release.kind is Mechanism.GAUSSIAN:
        found = _gaussian_divergence(release, relation, orders, far)
    elif not isinstance(release.sampling, NoSampling):
        raise PlanError(
            f"no bound is known here for {release.kind.value} noise with sampling "
            f"`{release.sampling.name}`",
            hint="declare sampling `none`, or use Gaussian noise",
        )
    elif release.kind is Mechanism.SKELLAM:
        l1 = (release.l1 or 0.0) * far / release.sensitivity
        found = skellam_divergence(orders, variance=release.sigma**2, l2=far, l1=l1)
    else:
        rho = gaussian_sum_rho(
            addends=release.addends, sigma=release.sigma, l2=far, dimension=release.dimension
        )
        found = _composed(library().ZCDpEvent(rho=rho), relation, orders)
    found.flags.writeable = False
    return found


def _gaussian_divergence(
    release: Release, relation: Relation, orders: tuple[float, ...], far: float
) -> npt.NDArray[np.float64]:
    """Return the divergence of Gaussian noise; `far` is the distance of two neighbouring sums."""
    dp, sampling = library(), release.sampling
    event = dp.GaussianDpEvent(release.sigma / far / math.sqrt(participations(release)))
    if isinstance(sampling, Poisson) and sampling.q < 1:
        if relation is Relation.REPLACE:
            raise PlanError(
                "Rényi divergences do not cover Poisson sampling under `replace`",
                hint="take the relation `add_remove`, or the accountant `pld`",
            )
        event = dp.PoissonSampledDpEvent(sampling.q, event)
    elif isinstance(sampling, WithoutReplacement):
        if relation is not Relation.REPLACE:
            raise PlanError(
                f"a cohort of fixed size amplifies nothing under `{relation.value}`",
                hint="take the relation `replace`, or draw by Poisson sampling; a fixed-size "
                "cohort is not Poisson",
            )
        event = dp.SampledWithoutReplacementDpEvent(sampling.population, sampling.cohort, event)
    return _composed(event, relation, orders)


def _composed(event: Any, relation: Relation, orders: tuple[float, ...]) -> npt.NDArray[np.float64]:
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(list(orders), _neighbours(relation))
    found: npt.NDArray[np.float64] = accountant.compose(event).rdp
    return found


def total_divergence(
    releases: Counts, relation: Relation, orders: Sequence[float] = ORDERS
) -> npt.NDArray[np.float64]:
    """Return the Rényi divergence of all releases together."""
    total = np.zeros(len(orders))
    for release, count in releases.items():
        total += count * release_divergence(release, relation, orders)
    return total


def divergence_tradeoff(
    divergence: npt.NDArray[np.float64], orders: Sequence[float] = ORDERS
) -> Tradeoff:
    """Return the tradeoff of a Rényi divergence (arXiv 2004.00010, proposition 12)."""
    if not divergence.any():
        return lambda delta: 0.0
    library()
    from dp_accounting import rdp

    def find(delta: float) -> float:
        if delta <= 0:
            return math.inf
        return float(rdp.rdp_privacy_accountant.compute_epsilon(orders, divergence, delta)[0])

    return find


def fixed_order(divergence: npt.NDArray[np.float64], *, epsilon: float, delta: float) -> int:
    """Return the index in `ORDERS` of the order at which most of a release fits.

    Args:
        divergence: Of the release, at `ORDERS`.
        epsilon: That all of them together may have.
        delta: That it goes with.
    """
    a = np.array(ORDERS)
    left = epsilon - (np.log1p(-1 / a) - np.log(delta * a) / (a - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = np.where(np.isfinite(divergence), left / divergence, -np.inf)
    return int(np.argmax(np.nan_to_num(fit, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))


def is_linear(release: Release) -> bool:
    """Return whether the divergence of a release is proportional to the order."""
    if release.kind is Mechanism.SKELLAM:
        return False
    sampling = release.sampling
    if isinstance(sampling, Poisson):
        return sampling.q == 1
    return not (isinstance(sampling, WithoutReplacement) and sampling.cohort < sampling.population)


def rdp_tradeoff(releases: Counts, relation: Relation) -> Tradeoff:
    """Return the tradeoff by Rényi divergences: every mechanism and sampling that is proven."""
    return divergence_tradeoff(total_divergence(releases, relation))
