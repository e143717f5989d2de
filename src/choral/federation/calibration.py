"""What a run's wish for privacy means: who adds which noise, and what is promised for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from choral.core.aggregation import Aggregation, Secure
from choral.core.errors import PlanError
from choral.core.params import ClientId, Spec
from choral.core.plan import Local, RecordPrivacy
from choral.core.protection import Protection, RecordPromise
from choral.federation.evaluation import SHOWN
from choral.federation.participant import check_keeps_records
from choral.federation.policy import RoundPolicy
from choral.federation.recorded import counted_in, planned_loss, trained_size
from choral.federation.secure import corrupt_of
from choral.federation.setup import RunSetup
from choral.privacy.accounting import epsilon_of, smallest_noise
from choral.privacy.adaptive import count_sigma_for, joint_release
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
    """
    secure = isinstance(aggregation, Secure)
    mode = wish.mode or ("distributed" if secure else "central")
    if wish.quantile and mode != "central":
        raise PlanError(
            f"an adaptive clip needs the number of clipped clients, and in mode `{mode}` nobody "
            "adds noise to that",
            hint="leave `clip` out, or `mode: central` with `aggregation: plain`",
        )
    if mode == "record":
        return mode  # noise is in what clients train, whatever becomes of it
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
    secure sum with noise is opened for no fewer survivors than the noise is made for. Noise of
    clients' own training asks for nothing.
    """
    if mode == "record":
        return policy
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
    mode = mode_of(wish, setup.aggregation)
    if mode == "record":
        return _recorded(setup, wish, spec)
    check_private_tensors(spec)
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


def record_terms(local: Local, wish: Privacy, rounds: int) -> Local:
    """Return local training with the noise of mode `record`.

    Args:
        local: Local terms, without `record`.
        wish: What is asked for, of mode `record`.
        rounds: Of the run, for which each client finds its noise where `epsilon` is given alone.

    Raises:
        PlanError: Something is asked for that the mode does not have.
    """
    if local.record is not None:
        raise PlanError(
            "`privacy` of mode `record` and `local.record` are the same, said twice",
            hint="leave `local.record` out",
        )
    if wish.mechanism is not None or wish.relation not in (None, Relation.ADD_REMOVE.value):
        raise PlanError(
            "mode `record` adds Gaussian noise for the relation `add_remove`",
            hint="leave `mechanism` and `relation` out",
        )
    if wish.budget is not None:
        raise PlanError(
            "`privacy.budget` counts what a coordinator releases, and in mode `record` each site "
            "counts its own records",
            hint="`max_epsilon` in the sites' policies is their budget, over all runs",
        )
    z = wish.noise_multiplier
    terms = (
        RecordPrivacy(wish.bound, z, delta=wish.delta)
        if z is not None
        else RecordPrivacy(wish.bound, epsilon=wish.epsilon, delta=wish.delta, rounds=rounds)
    )
    return replace(local, record=terms)


def _recorded(setup: RunSetup, wish: Privacy, spec: Spec) -> RunSetup:
    """Return a setup with what it promises each record."""
    check_keeps_records(setup.task)
    check_model = getattr(setup.task, "check_record_privacy", None)
    if callable(check_model):
        check_model()
    promise = RecordPromise(wish.delta, setup.policy.rounds, trained_size(spec), limit=wish.epsilon)
    if not setup.complete:
        why = "clients tell their number of records by powers of two; the bound is for the fewest"
        planned = wish.epsilon if wish.noise_multiplier is None else None
        return replace(setup, records=replace(promise, planned=planned), notes=(why,))
    if setup.population > SHOWN:
        return replace(setup, records=promise)
    count = counted_in(setup.source, setup.test_fraction)
    sizes = frozenset(count(client) for client in setup.source.ids)
    warning = delta_warning(wish.delta, min(least for least, _ in sizes))
    planned = wish.epsilon
    if wish.noise_multiplier is not None:
        planned = planned_loss(setup.local, sizes, promise)
        if wish.epsilon is not None and planned > wish.epsilon * (1 + _TOLERANCE):
            raise PlanError(
                f"privacy.noise_multiplier {wish.noise_multiplier:g} gives epsilon {planned:.4g} "
                f"over {promise.rounds} rounds, above privacy.epsilon {wish.epsilon:g}",
                hint="leave `noise_multiplier` out: each client finds it from epsilon",
            )
    promise = replace(promise, planned=planned)
    return replace(setup, records=promise, notes=() if warning is None else (warning,))


def _central(setup: RunSetup, wish: Privacy, dimension: int) -> tuple[Protection, list[str]]:
    relation = _relation(wish, "central")
    sampling, why = credited(setup)
    expected = float(setup.policy.round.invited(setup.population))
    step = Central.step_of(Central.grid_for(wish.bound))
    rounds = setup.policy.rounds

    def release_of(z: float) -> Release:
        if wish.quantile:
            return joint_release(z, sampling=sampling, dimension=dimension)
        return Central(wish.bound, z, expected, dimension, step, sampling).release

    z = wish.noise_multiplier
    if z is None:
        z = smallest_noise(
            lambda z: {release_of(z): rounds},
            epsilon=wish.epsilon or math.inf,
            delta=wish.delta,
            relation=relation,
        )
    release = release_of(z)
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
        quantile=wish.quantile,
        count_sigma=count_sigma_for(z, expected=expected) if wish.quantile else 0.0,
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
