"""The ledger of a population: what has been released about it, and what may still be.

One append-only log for each population. A round reserves what it will release before any task goes
out; its commit spends it; a round that provably released nothing is voided. Whatever is neither
counts as spent, so that a crash at any point never under-counts.

How the limit holds: the releases of all runs are composed by Rényi divergences of one order, which
hold for parameters that are chosen as one goes (a filter: Feldman and Zrnic 2021, arXiv 2008.11193,
for an order that is fixed beforehand). The order is that at which most of what the first run
declared fits. The best order for what was released is no substitute: whoever chooses releases by
earlier outcomes chooses the order, too. Only where all releases are multiples of what the first run
declared does one number grow, and the best order is the fixed one when the limit is reached. A
population's first run may declare more than that allows, where privacy loss distributions, which
are tighter for parameters that are fixed beforehand, allow it. The population is then kept for that
run alone. The choice is made from declared numbers before any data is touched, so that nothing
adaptive is composed by a bound for fixed parameters.

Hashes find an edit, a gap or a reorder. Who can write the whole log can also write another one that
is consistent; a witness who remembers a `Head` finds that, and a log that was cut off or rolled
back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.errors import (
    BudgetExhausted,
    ConfigError,
    Conflict,
    PlanError,
    Refused,
    RolledBackLedger,
    TamperedLedger,
)
from choral.core.failpoints import reach
from choral.core.ports import LogStore, Record
from choral.core.release import MechanismLedger, ReleaseEvent
from choral.privacy.accounting import epsilon_of, slack, with_slack
from choral.privacy.adapters import (
    ORDERS,
    Tradeoff,
    divergence_tradeoff,
    fixed_order,
    rdp_tradeoff,
    total_divergence,
)
from choral.privacy.entries import Booked, Head, LedgerState, Limit, RunTerms, log_of, packed
from choral.privacy.standing import Reservation, Standing
from choral.privacy.vocabulary import Epsilon, Release, check_selection

_ROUNDING: Final = 1e-9
"""How far, relatively, a sum may be above the limit by the rounding of its terms alone."""

_TRIES: Final = 1000
"""How often an entry is decided anew while others append."""


class PrivacyLedger:
    """The privacy ledger of one population.

    Guarantees:
        - What is reserved and spent never passes the limit, however many processes reserve at once:
          an entry is decided on all entries before it, and is appended only behind them.
        - A reservation is durable when `reserve` returns, and counts until it is voided.
        - Every entry that is read is checked against the hash of the one before.

    Args:
        store: Where logs are.
        population: Name of the population; its log is `ledger/<population>`.
        aim: The epsilon for which the order of its bound is the best; None for the limit.

    Raises:
        TamperedLedger: The log that is there is not a ledger, or has been changed.
    """

    def __init__(self, store: LogStore, population: str, *, aim: float | None = None) -> None:
        if not population or not population.isprintable() or "/" in population:
            raise ConfigError(f"population {population!r}: expected a word without `/`")
        self._store = store
        self._log = log_of(population)
        self.population = population
        self._aim = aim
        self._state = LedgerState()
        self._known: dict[frozenset[tuple[Release, int]], Epsilon] = {}
        self._catch_up()

    # --- writing ---------------------------------------------------------------------------------

    def open(self, limit: Limit) -> Limit:
        """Set the population's limit, or check that it is the one that was set.

        Raises:
            Refused: It was opened with another limit.
        """

        def decide(state: LedgerState) -> Record | None:
            if state.limit is None:
                return state.entry("opened", {"limit": limit.as_json()})
            if state.limit != limit:
                raise Refused(
                    f"population `{self.population}` was opened with {_said(state.limit)}, not "
                    f"{_said(limit)}",
                    hint="a limit is not changed: what was promised stays promised",
                )
            return None

        self._append(decide)
        return limit

    def open_run(self, terms: RunTerms) -> None:
        """Declare a run, before its first round. Declaring it again with the same terms is nothing.

        Raises:
            Refused: It was declared with other terms, the population has no limit yet, or it is
                kept for another run.
            PlanError: Its releases have no bound that holds beside other runs, and privacy loss
                distributions do not allow what it plans either.
        """

        def decide(state: LedgerState) -> Record | None:
            _limit(state)
            known = state.runs.get(terms.run)
            if known == terms:
                return None
            if known is not None:
                raise Refused(
                    f"run `{terms.run}` was declared with other terms",
                    hint="what is fixed beforehand stays fixed: start another run",
                )
            if state.alone is not None:
                raise Refused(
                    f"population `{self.population}` is kept for run `{state.alone}`, which needs "
                    "its whole budget",
                    hint="another population, or a limit that leaves room",
                )
            alone = self._needs_all(state, terms)
            return state.entry("run", {"terms": terms.as_json(), "alone": alone})

        self._append(decide)

    def reserve(
        self,
        run: str,
        *,
        round: int,
        attempt: int,
        releases: Sequence[Release] | None = None,
        what: str = "model",
    ) -> Reservation:
        """Reserve what an attempt will release, before any task of it goes out.

        Asking again for the same attempt gives the same reservation.

        Args:
            run: A run that was declared.
            round: Counted from 1.
            attempt: Counted from 1.
            releases: What will be released; None for what the run declared.
            what: What is released.

        Raises:
            BudgetExhausted: It would pass the population's limit; nothing was reserved.
            PlanError: A release claims credit for a sampling that the run's selection is not.
            Refused: The run was not declared, the population is kept for declared releases, or the
                attempt reserved others or is settled.
        """

        def decide(state: LedgerState) -> Record | None:
            terms = _terms(state, run)
            wanted = terms.releases if releases is None else tuple(releases)
            for release in wanted:
                check_selection(release.sampling, terms.selection)
            number = state.found.get((run, round, attempt, what))
            if number is not None:
                _same(state.booked[number], wanted)
                return None
            after = self._after(state, terms, wanted)
            fields: dict[str, Any] = {"run": run, "round": round, "attempt": attempt, "what": what}
            fields["releases"] = packed(wanted)
            fields["epsilon"] = after if math.isfinite(after) else None
            return state.entry("reserved", fields)

        self._append(decide)
        return self.reservation(run, round=round, attempt=attempt, what=what)

    def spend(self, reservation: Reservation) -> bool:
        """Record that a reservation was committed. Spending it again changes nothing.

        Returns:
            Whether it was this call that recorded it. Of all who spend one reservation, that is
            one: who must not release twice under it releases only then.

        Raises:
            Refused: It was voided.
        """
        return self._settle(reservation.number, "spent", {})

    def void(self, reservation: Reservation, *, reason: str) -> None:
        """Record that a reservation released nothing. Voiding it again changes nothing.

        Args:
            reservation: Of an attempt from which nobody can have learnt anything: no contribution
                came, or the sum was never opened.
            reason: How that is known, for whoever audits.

        Raises:
            ConfigError: No reason.
            Refused: It was spent.
        """
        if not reason.strip():
            raise ConfigError("a reservation is voided with a reason alone")
        self._settle(reservation.number, "voided", {"reason": reason})

    # --- reading ---------------------------------------------------------------------------------

    def reservation(
        self, run: str, *, round: int, attempt: int, what: str = "model"
    ) -> Reservation:
        """Return what an attempt reserved.

        Raises:
            Refused: It reserved nothing.
        """
        self._catch_up()
        number = self._state.found.get((run, round, attempt, what))
        if number is None:
            raise Refused(
                f"run `{run}` has reserved nothing for `{what}` in round {round}, attempt {attempt}"
            )
        booked, limit = self._state.booked[number], _limit(self._state)
        value = math.inf if booked.epsilon is None else booked.epsilon
        epsilon = Epsilon(value, limit.delta, limit.unit, limit.relation, self._accountant)
        kinds = "+".join(sorted({r.kind.value for r in booked.releases}))
        return Reservation(
            number, run, round, attempt, what, kinds, epsilon, self._over(run), booked.state
        )

    def reservations(self, run: str) -> int:
        """Return how many reservations of a run count: those that were not voided."""
        self._catch_up()
        booked = self._state.booked.values()
        return sum(1 for b in booked if b.key[0] == run and b.state != "voided")

    def epsilon(self, run: str | None = None) -> Epsilon:
        """Return the epsilon of everything reserved or spent, of one run or of the population."""
        self._catch_up()
        limit = _limit(self._state)
        if run is not None:
            _terms(self._state, run)
            return self._exact(self._state.by_run[run])
        if self._state.alone is not None:
            return self._exact(self._state.counts)
        value = self._filtered(self._state, ())
        return Epsilon(value, limit.delta, limit.unit, limit.relation, "rdp")

    def runs(self) -> tuple[RunTerms, ...]:
        """Return the runs that were declared, oldest first."""
        self._catch_up()
        return tuple(self._state.runs.values())

    def standing(self) -> Standing:
        """Return where the population stands."""
        found, limit = self.epsilon(), _limit(self._state)
        states = Counter(b.state for b in self._state.booked.values())
        left = max(0.0, limit.epsilon - found.value)
        return Standing(
            found,
            limit,
            left,
            states["reserved"],
            states["spent"],
            states["voided"],
            self._state.alone,
        )

    def rounds_left(self, releases: Sequence[Release], *, most: int = 1_000_000) -> int:
        """Return how many more rounds with these releases the limit allows, up to `most`.

        Where the population is kept for one run, it is what that run declared and has not used.
        """
        self._catch_up()
        return self._fitting(self._state, tuple(releases), most)

    def head(self) -> Head:
        """Return where the ledger stands, for a witness to remember."""
        self._catch_up()
        return self._state.head

    def check_witness(self, head: Head) -> None:
        """Check that this is a continuation of a ledger that a witness has seen.

        Raises:
            RolledBackLedger: It is shorter.
            TamperedLedger: What was seen has been changed.
        """
        self._catch_up()
        digests = self._state.digests
        if head.length > len(digests):
            raise RolledBackLedger(
                f"ledger `{self.population}` has {len(digests)} entries, {head.length} were seen",
                hint="releases that it does not hold were made: restore the newest copy",
            )
        if head.length and digests[head.length - 1] != head.digest:
            raise TamperedLedger(
                f"entry {head.length - 1} of ledger `{self.population}` is not the one that was "
                "seen"
            )

    def verify(self) -> Head:
        """Read the whole log anew, check every entry, and return its head.

        Raises:
            TamperedLedger: An entry was edited, is missing, or is in another place.
            RolledBackLedger: It is shorter than this ledger has seen it.
        """
        seen = self._state.head
        fresh = PrivacyLedger(self._store, self.population)
        fresh.check_witness(seen)
        return fresh.head()

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _accountant(self) -> str:
        return "pld" if self._state.alone is not None else "rdp"

    def _catch_up(self) -> int:
        """Take in what others appended; return how many entries."""
        records = self._store.read_log(self._log, start=len(self._state.digests))
        for record in records:
            self._state.add(record)
        return len(records)

    def _append(self, decide: Callable[[LedgerState], Record | None]) -> bool:
        """Append what is decided on all entries; decide anew where others were faster.

        Returns whether there was something to append.
        """
        self._catch_up()
        for _ in range(_TRIES):
            record = decide(self._state)
            if record is None:
                return False
            reach(f"ledger.{record.kind}.made")
            try:
                self._store.append_log(self._log, [record], expect=len(self._state.digests))
            except Conflict:
                if not self._catch_up():
                    raise RolledBackLedger(
                        f"ledger `{self.population}` is shorter than it was a moment ago"
                    ) from None
                continue
            reach(f"ledger.{record.kind}.stored")
            self._state.add(record)
            return True
        raise Conflict(f"ledger `{self.population}` grew {_TRIES} times while one entry was made")

    def _settle(self, number: int, kind: str, fields: dict[str, Any]) -> bool:
        def decide(state: LedgerState) -> Record | None:
            booked = state.booked.get(number)
            if booked is None:
                raise Refused(f"ledger `{self.population}` has no reservation {number}")
            if booked.state == kind:
                return None
            if booked.state != "reserved":
                raise Refused(f"reservation {number} is {booked.state} and cannot be {kind}")
            return state.entry(kind, {"reservation": number, **fields})

        return self._append(decide)

    def _needs_all(self, state: LedgerState, terms: RunTerms) -> bool:
        """Return whether a run's plan fits by the bound for fixed parameters alone."""
        limit = _limit(state)
        planned = [r for r, n in terms.planned.items() for _ in range(n)]
        problem: PlanError | None = None
        try:
            if self._filtered(state, planned) <= _most(limit):
                return False
        except PlanError as error:
            problem = error
        if not state.runs and self._exact(terms.planned, limit).value <= _most(limit):
            return True
        if problem is not None:
            raise problem
        return False

    def _after(self, state: LedgerState, terms: RunTerms, wanted: tuple[Release, ...]) -> float:
        """Return epsilon with these releases, or raise `BudgetExhausted`."""
        limit = _limit(state)
        if state.alone is None:
            after = self._filtered(state, wanted)
            if after > _most(limit):
                raise self._exhausted(state, wanted, self._filtered(state, ()))
            return after
        if not set(wanted) <= set(terms.releases):
            raise Refused(
                f"population `{self.population}` is kept for what run `{terms.run}` declared",
                hint="other releases need a run that leaves room for them",
            )
        counts = Counter(state.counts)
        counts.update(wanted)
        planned = terms.planned
        within = all(n <= planned[r] for r, n in counts.items())
        if not within and len(planned) > 1:
            raise self._exhausted(state, wanted, self._exact(state.counts, limit).value)
        # Fewer releases than planned cost at most the plan, which fits. More of one kind are still
        # fixed beforehand: how many fit is a function of what was declared.
        after = self._exact(planned if within else counts, limit).value
        if after > _most(limit):
            raise self._exhausted(state, wanted, self._exact(state.counts, limit).value)
        return after

    def _exhausted(
        self, state: LedgerState, wanted: tuple[Release, ...], so_far: float
    ) -> BudgetExhausted:
        limit = _limit(state)
        return BudgetExhausted(
            f"population `{self.population}` has used epsilon {so_far:.4g} of {limit.epsilon:g} "
            f"({_said(limit)}); {max(0.0, limit.epsilon - so_far):.4g} is left, and "
            f"{self._fitting(state, wanted, 1_000_000)} more rounds like this fit",
            hint="more noise, smaller cohorts, or another population",
        )

    def _fitting(self, state: LedgerState, releases: tuple[Release, ...], most: int) -> int:
        limit = _limit(state)
        if state.alone is not None:
            used, planned = state.counts, state.runs[state.alone].planned
            wanted = Counter(releases)
            return max(0, min((planned[r] - used[r]) // n for r, n in wanted.items()))
        divergence, spare = state.weight()
        one = total_divergence(Counter(releases), limit.relation)
        off = slack(Counter(releases), caps=True)

        def fits(rounds: int) -> bool:
            tradeoff = self._tradeoff(state, divergence + rounds * one, releases)
            found = with_slack(tradeoff, limit.delta, spare + rounds * off)
            return found <= _most(limit)

        low, high = 0, 1
        while high <= most and fits(high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _filtered(self, state: LedgerState, more: Sequence[Release]) -> float:
        """Return epsilon with more releases, by the bound that holds for adaptive choices."""
        limit, counts = _limit(state), Counter(more)
        divergence, spare = state.weight()
        if counts:
            divergence = divergence + total_divergence(counts, limit.relation)
        off = spare + slack(counts, caps=True)
        return with_slack(self._tradeoff(state, divergence, more), limit.delta, off)

    def _tradeoff(
        self, state: LedgerState, divergence: npt.NDArray[np.float64], more: Sequence[Release]
    ) -> Tradeoff:
        """Return the tradeoff of what counts with more: at any order, or at the fixed one alone."""
        if state.first is None or state.is_uniform(more):
            return divergence_tradeoff(divergence)
        limit = _limit(state)
        one = total_divergence(Counter(state.first.releases), limit.relation)
        at = fixed_order(one, epsilon=self._aim or limit.epsilon, delta=limit.delta)
        return divergence_tradeoff(divergence[at : at + 1], ORDERS[at : at + 1])

    def _exact(self, counts: Counter[Release], limit: Limit | None = None) -> Epsilon:
        """Return epsilon of parameters that were fixed beforehand."""
        limit = limit or _limit(self._state)
        kept = frozenset((r, n) for r, n in counts.items() if n > 0)
        if kept not in self._known:
            self._known[kept] = epsilon_of(
                dict(kept), delta=limit.delta, relation=limit.relation, unit=limit.unit
            )
        return self._known[kept]

    def _over(self, run: str) -> bool:
        """Return whether a run has passed its own limit."""
        soft, made = self._state.runs[run].epsilon, +self._state.by_run[run]
        if soft is None:
            return False
        limit = _limit(self._state)
        try:
            loose = with_slack(
                rdp_tradeoff(made, limit.relation), limit.delta, slack(made, caps=True)
            )
        except PlanError:
            loose = math.inf
        return loose > soft and self._exact(made).value > soft


def run_ledger(ledger: PrivacyLedger, run: str) -> MechanismLedger:
    """Return a run's part of a ledger as what turns its private values into released ones.

    Each release spends its reservation first, so that a crash after it counts as spent. Releasing
    the same attempt again is the same release: recompute it from the same sum and the same seed, or
    not at all.

    Raises (on release):
        Refused: Nothing was reserved for it, or the reservation was voided.
    """

    def record(what: str, round: int, attempt: int) -> ReleaseEvent:
        reservation = ledger.reservation(run, round=round, attempt=attempt, what=what)
        ledger.spend(reservation)
        return ReleaseEvent(
            what,
            round,
            attempt,
            reservation.mechanism,
            reservation.epsilon.value,
            reservation.epsilon.delta,
        )

    return MechanismLedger(record)


def _most(limit: Limit) -> float:
    """Return the epsilon up to which a limit holds, the rounding of sums aside."""
    return limit.epsilon * (1.0 + _ROUNDING)


def _limit(state: LedgerState) -> Limit:
    if state.limit is None:
        raise Refused("the population has no limit yet", hint="open its ledger with one")
    return state.limit


def _terms(state: LedgerState, run: str) -> RunTerms:
    _limit(state)
    if run not in state.runs:
        raise Refused(f"run `{run}` has not declared what it releases", hint="open it first")
    return state.runs[run]


def _same(booked: Booked, wanted: tuple[Release, ...]) -> None:
    if Counter(booked.releases) != Counter(wanted):
        raise Refused(f"reservation {booked.number} is for other releases")
    if booked.state == "voided":
        raise Refused(f"reservation {booked.number} was voided", hint="a new attempt reserves anew")


def _said(limit: Limit) -> str:
    return (
        f"epsilon {limit.epsilon:g} at delta {limit.delta:g}, {limit.unit.value}, "
        f"{limit.relation.value}"
    )
