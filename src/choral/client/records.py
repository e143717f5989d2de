"""What a site has released about its records: its own ledger, in its state folder.

Each training by record-level privacy is reserved before its first step and counts from then on,
whatever becomes of it: a round that is trained again has new noise, and is another release. The
ledger composes all runs by Rényi divergences, which hold for plans that are chosen as one goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from choral.core.errors import BudgetExhausted, PlanError
from choral.core.plan import Plan
from choral.core.ports import LogStore, Rand
from choral.privacy.entries import Limit, RunTerms
from choral.privacy.ledger import PrivacyLedger
from choral.privacy.record import record_privacy, round_releases
from choral.privacy.standing import Reservation
from choral.privacy.vocabulary import DEFAULT_DELTA, Epsilon, Poisson, PrivacyUnit, Relation

LEDGER: Final = "records.db"
POPULATION: Final = "records"
_NO_LIMIT: Final = 1e9
"""The ledger's own limit: the site's is the policy's, which its owner may change."""
_AIM: Final = 8.0
"""Epsilon that the ledger's bound is made for where the policy has no limit."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a site's policy allows to be learnt of one of its records.

    Attributes:
        epsilon: Over all runs; None for no limit.
        delta: That it goes with; the ledger keeps its first one.
    """

    epsilon: float | None = None
    delta: float = DEFAULT_DELTA


class RecordLedger:
    """A site's ledger of its records.

    Args:
        store: Where it is.
        allowance: What the policy allows.
        rand: Names each training.
    """

    def __init__(self, store: LogStore, allowance: Allowance, rand: Rand) -> None:
        aim = allowance.epsilon or _AIM
        self._ledger = PrivacyLedger(store, POPULATION, aim=aim)
        self._limit = allowance.epsilon
        self._rand = rand
        self._ledger.open(
            Limit(_NO_LIMIT, allowance.delta, PrivacyUnit.RECORD, Relation.ADD_REMOVE)
        )

    def reserve(self, plan: Plan, *, records: int, dimension: int) -> Reservation:
        """Reserve what a training will release, before its first step.

        Args:
            plan: The round's terms, with `local.record`.
            records: Of the client's training part.
            dimension: Trained coordinates.

        Raises:
            BudgetExhausted: The policy does not allow it, or the plan's own epsilon is made for
                fewer trainings; nothing counts.
            PlanError: There is no noise.
        """
        ((one, times),) = round_releases(plan.local, records, dimension=dimension).items()
        if not one.sigma:
            raise PlanError(
                "a plan with record-level privacy and a noise multiplier of 0 protects nobody",
                hint="it is for simulations; raise `noise_multiplier`",
            )
        self._ledger.open_run(RunTerms(plan.run_id, (one,), rounds=1, selection=Poisson.name))
        self._check_promise(plan)
        before = self._ledger.epsilon()
        made = self._ledger.reserve(
            plan.run_id,
            round=plan.round,
            attempt=plan.attempt,
            releases=[one] * times,
            what=f"update {self._rand.token(8).hex()}",
        )
        if self._limit is not None and made.epsilon.value > self._limit:
            self._ledger.void(made, reason="the site's policy refused it before any training")
            raise BudgetExhausted(
                f"the site's policy: a record may lose epsilon {self._limit:g}, has lost "
                f"{before.value:.4g}, and this round makes it {made.epsilon.value:.4g} (delta "
                f"{made.epsilon.delta:g})",
                hint="more noise, fewer steps, smaller batches; only the data owner raises "
                "`max_epsilon`",
            )
        return made

    def _check_promise(self, plan: Plan) -> None:
        """Refuse more trainings than a plan's noise is made for."""
        terms = record_privacy(plan.local)
        if terms.epsilon is None or terms.rounds is None:
            return
        if self._ledger.reservations(plan.run_id) >= terms.rounds:
            raise BudgetExhausted(
                f"the site's ledger: {terms.rounds} trainings were reserved for run "
                f"`{plan.run_id}`, and its epsilon of {terms.epsilon:g} is made for no more",
                hint="attempts that came to nothing count; plan for more rounds",
            )

    def spend(self, reservation: Reservation) -> None:
        """Record that an update was made."""
        self._ledger.spend(reservation)

    def epsilon(self) -> Epsilon:
        """Return what a record has lost so far, over all runs."""
        return self._ledger.epsilon()


def open_record_ledger(state: Path, allowance: Allowance, rand: Rand) -> RecordLedger:
    """Return the ledger of a state folder; it is made where there is none.

    Raises:
        StoreError: It cannot be used. A site that cannot remember must not train.
        Refused: It was opened with another delta.
    """
    from choral.stores.database import open_database  # takes half a second

    database = open_database(f"sqlite:///{(state / LEDGER).absolute()}")
    return RecordLedger(database, allowance, rand)
