"""What a run's wish for privacy means: who adds which noise, and what is promised for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from choral.core.aggregation import Aggregation, Secure
from choral.core.errors import NotBuilt, PlanError
from choral.core.params import ClientId, Spec
from choral.core.protection import Protection
from choral.federation.policy import RoundPolicy
from choral.federation.secure import corrupt_of
from choral.federation.setup import RunSetup
from choral.privacy.accounting import epsilon_of, smallest_noise
from choral.privacy.central import Central
from choral.privacy.clip import check_private_tensors
from choral.privacy.distributed import NoisedSum
from choral.privacy.distributed import plan as plan_distributed
from choral.privacy.terms import Privacy
from choral.privacy.vocabulary import (
    UNSAMPLED,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    Sampling,
    WithoutReplacement,
    delta_warning,
    sampling_json,
)

_TOLERANCE: Final = 1e-6
"""How far, relatively, an epsilon may be above the one that is asked for, by arithmetic alone."""


def mode_of(wish: Privacy, aggregation: Aggregation) -> str:
    """Return where the noise is added, or say why it cannot be.

    Raises:
        PlanError: The mode does not compose with the aggregation.
        NotBuilt: Mode `record`.
    """
    secure = isinstance(aggregation, Secure)
    mode = wish.mode or ("distributed" if secure else "central")
    if mode == "record":
        raise NotBuilt(
            "`privacy` of mode `record` is not built yet",
            hint="`mode: central` or `distributed` protects all that a client holds",
        )
    if mode == "central" and secure:
        raise PlanError(
            "central noise is added to a sum that the coordinator sees, and aggregation is secure",
            hint="`mode: distributed`, or `aggregation: plain`",
        )
    if mode == "distributed" and not secure:
        raise PlanError(
            "distributed noise protects a sum alone, and aggregation is plain",
            hint="`aggregation: secure`, or `mode: central`",
        )
    if isinstance(aggregation, Secure) and aggregation.groups > 1:
        raise PlanError(
            f"noise for one sum, and aggregation has {aggregation.groups} groups",
            hint="leave `groups` and `rule` out",
        )
    return mode


def round_for(
    mode: str, policy: RoundPolicy, *, selection: str, population: int, complete: bool
) -> RoundPolicy:
    """Return the terms of a round as its noise needs them.

    A drawn cohort that is taken credit for is waited for as a whole, however many were drawn. A
    secure sum with noise is opened for no fewer survivors than the noise is made for.
    """
    if mode == "central":
        if complete and selection == Poisson.name and not _uncredited(policy):
            return replace(policy, whole=True)
        return policy
    invited = policy.invited(population)
    names = tuple(ClientId(str(i)) for i in range(invited))
    return replace(policy, quorum=policy.cohort(names).quorum)


def _uncredited(policy: RoundPolicy) -> str:
    """Return the setting by which a round is not exactly its draw; empty where it is."""
    if policy.over_selection > 1:
        return f"`over_selection: {policy.over_selection:g}` takes the first to answer"
    if policy.goal is not None and policy.goal < policy.clients:
        return f"`goal: {policy.goal}` takes the first to answer"
    if policy.quorum is not None and not policy.whole:
        return f"`quorum: {policy.quorum}` draws anew where a cohort is small"
    return ""


def credited(setup: RunSetup) -> tuple[Sampling, str]:
    """Return what sampling a central run takes credit for, and why it takes none, if so."""
    policy, name = setup.policy.round, setup.selector.name
    invited = policy.invited(setup.population)
    if invited >= setup.population:
        return UNSAMPLED, "everybody takes part in every round"
    if not setup.complete:
        return UNSAMPLED, "clients come when they can, so nobody knows how likely each is drawn"
    why = _uncredited(policy)
    if why:
        return UNSAMPLED, why
    if name == Poisson.name:
        return Poisson(invited / setup.population), ""
    if name == "uniform" and _relation(setup.privacy, "central") is Relation.REPLACE:
        return WithoutReplacement(invited, setup.population), ""
    return UNSAMPLED, f"selection `{name}` is not a draw that an accountant knows"


def _relation(wish: Privacy | None, mode: str) -> Relation:
    if wish is not None and wish.relation is not None:
        return Relation(wish.relation)
    return Relation.ADD_REMOVE if mode == "central" else Relation.REPLACE


def protected(setup: RunSetup, spec: Spec) -> RunSetup:
    """Return a setup with the noise of its rounds, as it is where it asks for none.

    Raises:
        PlanError: No noise keeps what is asked for, or the model holds what noise makes useless.
        MissingExtra: dp-accounting is not installed.
    """
    wish = setup.privacy
    if wish is None:
        return setup
    check_private_tensors(spec)
    mode = mode_of(wish, setup.aggregation)
    build = _central if mode == "central" else _distributed
    terms, notes = build(setup, wish, spec.vector_size)
    if wish.epsilon is not None and terms.epsilon > wish.epsilon * (1 + _TOLERANCE):
        raise PlanError(
            f"privacy.noise_multiplier {terms.multiplier:g} gives epsilon {terms.epsilon:.4g} over "
            f"{terms.rounds} rounds, above privacy.epsilon {wish.epsilon:g}",
            hint="leave `noise_multiplier` out: it follows from epsilon",
        )
    warning = delta_warning(wish.delta, max(1, setup.population))
    notes = [note for note in (*notes, warning) if note]
    return replace(setup, protection=terms, notes=tuple(notes))


def _central(setup: RunSetup, wish: Privacy, dimension: int) -> tuple[Protection, list[str]]:
    relation = _relation(wish, "central")
    sampling, why = credited(setup)
    expected = float(setup.policy.round.invited(setup.population))
    step = Central.step_of(Central.grid_for(wish.bound))
    rounds = setup.policy.rounds

    def noise(z: float) -> Central:
        return Central(wish.bound, z, expected, dimension, step, sampling)

    z = wish.noise_multiplier
    if z is None:
        z = smallest_noise(
            lambda z: {noise(z).release: rounds},
            epsilon=wish.epsilon or math.inf,
            delta=wish.delta,
            relation=relation,
        )
    release = noise(z).release
    terms = Protection(
        mode="central",
        mechanism=release.kind.value,
        max_norm=wish.bound,
        multiplier=z,
        epsilon=_promised(release, wish.delta, relation=relation, rounds=rounds),
        delta=wish.delta,
        unit=PrivacyUnit.USER.value,
        relation=relation.value,
        rounds=rounds,
        selection=setup.selector.name,
        sampling=sampling_json(sampling),
        expected=expected,
    )
    return terms, [f"no credit for sampling: {why}" if why else ""]


def _distributed(setup: RunSetup, wish: Privacy, dimension: int) -> tuple[Protection, list[str]]:
    secure = setup.aggregation
    if not isinstance(secure, Secure):
        raise PlanError("distributed noise without secure aggregation")
    relation = _relation(wish, "distributed")
    policy, rounds = setup.policy.round, setup.policy.rounds
    cohort = policy.invited(setup.population)
    mechanism = Mechanism(wish.mechanism or Mechanism.SKELLAM.value)
    noise = plan_distributed(
        NoisedSum(
            bound=wish.bound,
            dimension=dimension,
            cohort=cohort,
            survivors=policy.quorum or cohort,
            corrupt=corrupt_of(secure, cohort),
            ring_bits=secure.modulus_bits,
            mechanism=mechanism,
        ),
        epsilon=wish.epsilon,
        multiplier=wish.noise_multiplier,
        delta=wish.delta,
        rounds=rounds,
        relation=relation,
    )
    terms = Protection(
        mode="distributed",
        mechanism=mechanism.value,
        max_norm=wish.bound,
        multiplier=noise.release.multiplier,
        epsilon=_promised(noise.release, wish.delta, relation=relation, rounds=rounds),
        delta=wish.delta,
        unit=PrivacyUnit.USER.value,
        relation=relation.value,
        rounds=rounds,
        selection=setup.selector.name,
        sampling=sampling_json(UNSAMPLED),
        scale=noise.scale,
        variance=noise.variance,
        cohort=noise.cohort,
        survivors=noise.survivors,
        corrupt=noise.corrupt,
    )
    return terms, ["no credit for sampling: who takes part in a secure sum is known"]


def _promised(release: Release, delta: float, *, relation: Relation, rounds: int) -> float:
    """Return the epsilon of all rounds.

    Raises:
        PlanError: It is infinite.
    """
    found = epsilon_of({release: rounds}, delta=delta, relation=relation).value
    if not math.isfinite(found):
        raise PlanError(
            f"noise of {release.multiplier:g} times the clip gives no epsilon at delta {delta:g}",
            hint="more noise, or fewer rounds",
        )
    return found
