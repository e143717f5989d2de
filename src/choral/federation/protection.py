"""The terms of noise in a plan, as coordinator and clients compute them from the same plan.

So a client can refuse a plan whose noise does not keep what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from choral.core.aggregation import Plain, RingGrid, Secure
from choral.core.errors import PlanError, Refused
from choral.core.exact import Encoding
from choral.core.keys import Key
from choral.core.plan import Plan
from choral.core.protection import Protection
from choral.federation.secure import corrupt_of
from choral.privacy.accounting import epsilon_of
from choral.privacy.adaptive import AdaptiveClip, joint_release, model_multiplier
from choral.privacy.central import Central
from choral.privacy.clip import UNCLIPPED
from choral.privacy.distributed import Distributed
from choral.privacy.vocabulary import (
    UNSAMPLED,
    Epsilon,
    Mechanism,
    PrivacyUnit,
    Relation,
    Release,
    check_selection,
    sampling_of,
)

_TOLERANCE: Final = 1e-6
"""How far, relatively, two machines' arithmetic may be apart."""


def central_of(plan: Plan, dimension: int) -> Central:
    """Return the terms of the coordinator's noise.

    Raises:
        PlanError: The plan has no central noise, or is on a grid that is too coarse for it.
    """
    terms, grid = plan.privacy, plan.encoding
    if terms is None or not terms.central or not isinstance(grid, Encoding):
        raise PlanError("a plan without central noise")
    z = terms.multiplier
    return Central(
        bound=terms.max_norm,
        multiplier=model_multiplier(z, terms.count_sigma) if terms.quantile else z,
        expected=terms.expected,
        dimension=dimension,
        step=Central.step_of(grid),
        sampling=sampling_of(terms.sampling),
    )


def distributed_of(plan: Plan, dimension: int) -> Distributed:
    """Return the terms of the clients' noise.

    Raises:
        PlanError: The plan has no distributed noise, or its ring does not hold it.
    """
    terms, grid = plan.privacy, plan.encoding
    if terms is None or terms.central or not isinstance(grid, RingGrid):
        raise PlanError("a plan without distributed noise")
    return Distributed(
        bound=terms.max_norm,
        scale=terms.scale,
        variance=terms.variance,
        dimension=dimension,
        cohort=terms.cohort,
        survivors=terms.survivors,
        corrupt=terms.corrupt,
        ring_bits=grid.modulus_bits,
        mechanism=Mechanism(terms.mechanism),
    )


def release_in(plan: Plan, dimension: int) -> Release:
    """Return what a round of a plan releases.

    Args:
        plan: A plan with `privacy`.
        dimension: Elements of the model's vector.
    """
    terms = plan.privacy
    if terms is None or not terms.central:
        return distributed_of(plan, dimension).release
    noise = central_of(plan, dimension)
    if not terms.quantile:
        return noise.release
    return joint_release(terms.multiplier, sampling=noise.sampling, dimension=dimension)


def rotation_of(plan: Plan) -> Key:
    """Return the key of an attempt's rotation, the same for everyone."""
    return Key.of_state(plan.key).fold("rotation", plan.attempt)


def check_promise(plan: Plan, dimension: int) -> Epsilon:
    """Return the epsilon that a plan's noise really keeps, over all of its rounds.

    Args:
        plan: A plan with `privacy`.
        dimension: Elements of the model's vector.

    Raises:
        Refused: It is larger than the plan says, or the plan weakens what the noise counts on.
        PlanError: Its numbers make up no mechanism.
        MissingExtra: dp-accounting is not installed.
    """
    terms = plan.privacy
    if terms is None:
        raise PlanError("a plan without privacy promises nothing")
    if plan.weighting != "uniform":
        raise Refused("the plan weighs clients, so its clip bounds nothing")
    check_selection(sampling_of(terms.sampling), terms.selection)
    if terms.unit != PrivacyUnit.USER.value:
        raise Refused(f"the plan protects a `{terms.unit}`, and clips whole updates")
    if not terms.central:
        _check_secure(plan, terms)
    elif not isinstance(plan.aggregation, Plain):
        raise Refused("central noise in a plan whose sum nobody sees")
    found = epsilon_of(
        {release_in(plan, dimension): terms.rounds},
        delta=terms.delta,
        relation=Relation(terms.relation),
    )
    if not found.value <= terms.epsilon * (1 + _TOLERANCE):
        raise Refused(
            f"the plan promises epsilon {terms.epsilon:.4g}, its noise gives {found.value:.4g}",
            hint="the coordinator's terms are weaker than it says",
        )
    return found


def _check_secure(plan: Plan, terms: Protection) -> None:
    secure = plan.aggregation
    if not isinstance(secure, Secure) or secure.groups > 1:
        raise Refused("distributed noise in a plan without one secure sum")
    if Relation(terms.relation) is Relation.ADD_REMOVE:
        raise Refused("a secure sum shows who takes part, and the plan promises to hide it")
    if sampling_of(terms.sampling) != UNSAMPLED:
        raise Refused("a secure sum shows who takes part, and the plan takes credit for sampling")
    needed = corrupt_of(secure, terms.cohort)
    if terms.corrupt < needed:
        raise Refused(
            f"the plan's noise withstands {terms.corrupt} of {terms.cohort} who leave theirs out, "
            f"and its sum is for {needed}"
        )


def first_clip(terms: Protection | None) -> AdaptiveClip | None:
    """Return the adaptive clip of a run's first round; None where the run has none.

    Args:
        terms: Of the run, as it began.
    """
    if terms is None or not terms.quantile:
        return None
    return AdaptiveClip(terms.max_norm, terms.count_sigma, terms.quantile)


def stepped(clip: AdaptiveClip, rounds: Iterable[Mapping[str, Any]]) -> AdaptiveClip:
    """Return the adaptive clip that some committed rounds lead to.

    Args:
        clip: The one before them.
        rounds: One JSON object for each, whose metrics say the noised fraction of the unclipped.
    """
    for row in rounds:
        clip = clip.step(float(row["metrics"][UNCLIPPED]))
    return clip
