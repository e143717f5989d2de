"""What a run may still release: its part of a population's ledger, and noise at the coordinator.

An attempt reserves what it will release before anybody is invited, and its release spends that;
where the coordinator adds the noise, it spends before it draws. Where a process dies in between,
the reservation counts as spent, and the round is tried again as a new attempt with a reservation of
its own: no two releases share one, whoever else believes that it drives the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from choral.core.errors import PlanError, Refused, RolledBackLedger
from choral.core.exact import METRIC_BITS, ExactSum, Total
from choral.core.keys import Key
from choral.core.plan import Plan
from choral.core.ports import LogStore, Rand
from choral.core.protection import Protection
from choral.core.release import MechanismLedger, ReleaseEvent
from choral.crypto.secret import SECRET_SIZE, Secret
from choral.federation.protection import central_of
from choral.federation.setup import RunSetup
from choral.privacy.adaptive import joint_release, noised_fraction
from choral.privacy.central import Central, noised_total
from choral.privacy.clip import UNCLIPPED
from choral.privacy.distributed import Distributed
from choral.privacy.entries import Head, Limit, RunTerms
from choral.privacy.ledger import PrivacyLedger
from choral.privacy.terms import Budget
from choral.privacy.vocabulary import (
    Mechanism,
    PrivacyUnit,
    Relation,
    Release,
    sampling_of,
)


@dataclass(frozen=True, slots=True)
class Witness:
    """A ledger as somebody has seen it.

    Attributes:
        population: Whose.
        entries: How many it held.
        head: Hash of the last.
        run: The run that saw it, where that is known. A run without a budget has a ledger of its
            own, under its own name.
    """

    population: str
    entries: int
    head: str
    run: str = ""

    @property
    def shared(self) -> bool:
        """Whether it is the ledger of people, and not of one run alone."""
        return self.population != self.run


class Spending:
    """A run's part of the ledger of its population.

    Args:
        ledger: The population's.
        terms: What every plan of the run promises.
        run_id: The run.
        dimension: Elements of the model's vector.
        rand: Secret randomness of the coordinator's noise.
    """

    def __init__(
        self,
        ledger: PrivacyLedger,
        terms: Protection,
        *,
        run_id: str,
        dimension: int,
        rand: Rand,
    ) -> None:
        self._ledger = ledger
        self._terms = terms
        self._run_id = run_id
        self._dimension = dimension
        self._rand = rand

    @property
    def population(self) -> str:
        """Whose ledger it is."""
        return self._ledger.population

    @property
    def witness(self) -> Witness:
        """The ledger as it is now."""
        head = self._ledger.head()
        return Witness(self.population, head.length, head.digest)

    def reserve(self, round: int, attempt: int) -> bool:
        """Reserve what an attempt will release; return False where it was settled before.

        Raises:
            BudgetExhausted: It would pass the budget; nothing was reserved.
        """
        try:
            held = self._ledger.reservation(self._run_id, round=round, attempt=attempt)
        except Refused:
            held = self._ledger.reserve(self._run_id, round=round, attempt=attempt)
        return held.state == "reserved"

    def claim(self, round: int, attempt: int) -> bool:
        """Spend an attempt's reservation before its noise is drawn; return whether that was us.

        Where it is spent already, somebody has drawn noise for this sum, or is about to: this
        process before it died, or another one that believes that it drives the run. Other noise
        would be a second release.
        """
        try:
            held = self._ledger.reservation(self._run_id, round=round, attempt=attempt)
            return self._ledger.spend(held)
        except Refused:
            return False

    def spent(self, round: int, attempt: int) -> bool:
        """Return whether an attempt's reservation has been spent."""
        try:
            held = self._ledger.reservation(self._run_id, round=round, attempt=attempt)
        except Refused:
            return False
        return held.state == "spent"

    def void(self, round: int, attempt: int, *, reason: str) -> None:
        """Give back what an attempt reserved that released nothing."""
        try:
            held = self._ledger.reservation(self._run_id, round=round, attempt=attempt)
        except Refused:
            return
        if held.state == "reserved":
            self._ledger.void(held, reason=reason)

    def noised(self, total: Total | ExactSum, plan: Plan) -> Total:
        """Return a decoded sum as it may be released; a central one gets its noise here."""
        if isinstance(total, Total):
            if self._terms.central:
                raise PlanError("central noise needs the exact sum")
            return total
        noise, adaptive = central_of(plan, self._dimension), self._terms.quantile > 0
        fraction = self._unclipped(total, noise.expected) if adaptive else None
        found = noised_total(total, noise, Secret.random(self._rand))
        return found if fraction is None else replace(found, metrics={UNCLIPPED: fraction})

    def _unclipped(self, total: ExactSum, expected: float) -> float:
        """Return the noised fraction of clients that were not clipped, by their own words."""
        said, _ = total.state()["metrics"].get(UNCLIPPED, (0, 0))
        unclipped = round(said / 2**METRIC_BITS)  # each weighs 1
        return noised_fraction(
            min(max(unclipped, 0), total.count),
            total.count,
            expected=expected,
            sigma=self._terms.count_sigma,
            seed=Secret.random(self._rand),
        )

    def ledger(self) -> MechanismLedger:
        """Return what makes private values of this run into released ones.

        Each release spends its reservation first, so that a crash after it counts as spent. Its
        event says the epsilon of the run so far.
        """

        def record(what: str, round: int, attempt: int) -> ReleaseEvent:
            held = self._ledger.reservation(self._run_id, round=round, attempt=attempt, what=what)
            self._ledger.spend(held)
            spent = self._ledger.epsilon(self._run_id)
            return ReleaseEvent(what, round, attempt, held.mechanism, spent.value, spent.delta)

        return MechanismLedger(record)

    def draw_key(self) -> Key:
        """Return a key for one cohort that nobody can know, not even from the run's seed."""
        return Key.of_state(self._rand.token(SECRET_SIZE).hex())

    def check_witness(self, seen: Witness) -> None:
        """Refuse a ledger that is older than it was, or another one.

        Raises:
            RolledBackLedger: It is shorter.
            TamperedLedger: What was seen has been changed.
        """
        if seen.population == self.population:
            self._ledger.check_witness(Head(seen.entries, seen.head))


def spending_of(
    setup: RunSetup,
    dimension: int,
    *,
    store: LogStore,
    rand: Rand,
    witnesses: Iterable[Witness] = (),
) -> Spending | None:
    """Return a run's part of its population's ledger, declared; None for a run without privacy.

    Args:
        setup: The run, after `protected`.
        dimension: Elements of the model's vector.
        store: Where ledgers are.
        rand: Secret randomness.
        witnesses: Ledgers as earlier runs have seen them.

    Raises:
        Refused: The population has another limit, or is kept for another run.
        TamperedLedger: The ledger has been edited.
        RolledBackLedger: It is older than a witness has seen it.
    """
    terms, wish = setup.protection, setup.privacy
    if terms is None or wish is None:
        return None
    budget = wish.budget if isinstance(wish.budget, Budget) else None
    population = population_of(setup)
    ledger = PrivacyLedger(store, population)
    spending = Spending(ledger, terms, run_id=setup.run_id, dimension=dimension, rand=rand)
    for seen in witnesses:
        spending.check_witness(seen)
    ledger.open(
        Limit(
            terms.epsilon if budget is None else budget.epsilon,
            terms.delta if budget is None or budget.delta is None else budget.delta,
            PrivacyUnit(terms.unit),
            Relation(terms.relation),
        )
    )
    ledger.open_run(
        RunTerms(
            setup.run_id,
            (_release(setup, terms, dimension),),
            terms.rounds,
            terms.selection,
            wish.epsilon,
        )
    )
    return spending


def population_of(setup: RunSetup) -> str:
    """Return whose ledger a run is in; without a budget, one of its own."""
    budget = None if setup.privacy is None else setup.privacy.budget
    if not isinstance(budget, Budget):
        return setup.run_id
    return budget.population or setup.name


def _release(setup: RunSetup, terms: Protection, dimension: int) -> Release:
    """Return what each round of a run releases."""
    if terms.quantile:
        sampling = sampling_of(terms.sampling)
        return joint_release(terms.multiplier, sampling=sampling, dimension=dimension)
    if terms.central:
        step = Central.step_of(Central.grid_for(terms.max_norm))
        noise = Central(
            terms.max_norm,
            terms.multiplier,
            terms.expected,
            dimension,
            step,
            sampling_of(terms.sampling),
        )
        return noise.release
    return Distributed(
        bound=terms.max_norm,
        scale=terms.scale,
        variance=terms.variance,
        dimension=dimension,
        cohort=terms.cohort,
        survivors=terms.survivors,
        corrupt=terms.corrupt,
        ring_bits=getattr(setup.aggregation, "modulus_bits", 32),
        mechanism=Mechanism(terms.mechanism),
    ).release


def check_released(spending: Spending, rounds: Iterable[tuple[int, int]]) -> None:
    """Check that a ledger knows the releases that a run's log tells of.

    Args:
        spending: The run's part of it.
        rounds: Round and attempt of each.

    Raises:
        RolledBackLedger: It does not know one of them as spent.
    """
    for round_, attempt in rounds:
        if not spending.spent(round_, attempt):
            raise RolledBackLedger(
                f"the ledger of `{spending.population}` does not know of round {round_}, which was "
                "released",
                hint="restore the newest copy of the ledger",
            )
