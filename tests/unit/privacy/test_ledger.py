"""The ledger: its limit holds for any order, crash and crowd, and its chain shows every change."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import (
    BudgetExhausted,
    ConfigError,
    Conflict,
    PlanError,
    Refused,
    RolledBackLedger,
    TamperedLedger,
)
from choral.core.ports import Record
from choral.core.release import Private
from choral.privacy.accounting import epsilon_of
from choral.privacy.adapters import ORDERS, fixed_order, total_divergence
from choral.privacy.distributed import Distributed
from choral.privacy.entries import Head, Limit, RunTerms, shape_of
from choral.privacy.ledger import PrivacyLedger, run_ledger
from choral.privacy.vocabulary import (
    Mechanism,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    WithoutReplacement,
)
from choral.stores.memory import MemoryLogStore

LIMIT = Limit(8.0, 1e-5, PrivacyUnit.USER, Relation.ADD_REMOVE)
ONE = Release(Mechanism.GAUSSIAN, 5.0, 1.0)
LOG = "ledger/heart"


def opened(store=None, limit=LIMIT, release=ONE, rounds=10, selection="uniform", **terms):
    store = store or MemoryLogStore()
    ledger = PrivacyLedger(store, "heart")
    ledger.open(limit)
    ledger.open_run(RunTerms("run", (release,), rounds, selection, **terms))
    return store, ledger


def fill(ledger: PrivacyLedger, run: str = "run", first: int = 1) -> int:
    """Reserve and spend until the budget is exhausted; return how many rounds fit."""
    for number in range(first, first + 300):
        try:
            ledger.spend(ledger.reserve(run, round=number, attempt=1))
        except BudgetExhausted:
            return number - first
    raise AssertionError("the budget is never exhausted")


def test_reservations_never_pass_the_limit_and_the_refusal_says_what_is_left() -> None:
    _, ledger = opened()
    rounds = ledger.rounds_left([ONE])
    assert fill(ledger) == rounds > 10
    assert ledger.epsilon().value <= 8.0
    more = epsilon_of({ONE: rounds + 1}, delta=1e-5, relation=LIMIT.relation, accountant="rdp")
    assert more.value > 8.0
    assert ledger.rounds_left([ONE]) == 0
    with pytest.raises(BudgetExhausted) as caught:
        ledger.reserve("run", round=999, attempt=1)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "of 8" in message
    assert "is left" in message
    assert "0 more rounds" in message


def test_a_reservation_counts_before_it_is_spent_and_an_unknown_outcome_is_spent() -> None:
    store, ledger = opened()
    ledger.reserve("run", round=1, attempt=1)
    again = PrivacyLedger(store, "heart")  # after a crash: nothing says what became of it
    assert again.standing().reserved == 1
    one = epsilon_of([ONE], delta=1e-5, relation=LIMIT.relation, accountant="rdp")
    assert again.epsilon().value == one.value


def test_only_a_round_that_released_nothing_is_voided_and_with_a_reason() -> None:
    _, ledger = opened()
    one = ledger.reserve("run", round=1, attempt=1)
    with pytest.raises(ConfigError, match="reason"):
        ledger.void(one, reason=" ")
    ledger.void(one, reason="no client answered")
    ledger.void(one, reason="no client answered")
    assert ledger.epsilon().value == 0.0
    assert ledger.standing().voided == 1
    with pytest.raises(Refused, match="voided"):
        ledger.spend(one)
    with pytest.raises(Refused, match="voided"):
        ledger.reserve("run", round=1, attempt=1)
    two = ledger.reserve("run", round=1, attempt=2)
    ledger.spend(two)
    ledger.spend(two)
    with pytest.raises(Refused, match="spent"):
        ledger.void(two, reason="too late")
    assert ledger.standing().spent == 1


def test_asking_again_for_an_attempt_gives_the_same_reservation() -> None:
    store, ledger = opened()
    one = ledger.reserve("run", round=1, attempt=1)
    other = PrivacyLedger(store, "heart")
    assert other.reserve("run", round=1, attempt=1) == one
    with pytest.raises(Refused, match="other releases"):
        other.reserve("run", round=1, attempt=1, releases=[replace(ONE, sigma=9.0)])
    assert other.reserve("run", round=1, attempt=1, what="evaluation").number != one.number


def test_evaluation_and_other_releases_count_beside_the_model() -> None:
    _, ledger = opened()
    ledger.reserve("run", round=1, attempt=1)
    before = ledger.epsilon().value
    ledger.reserve("run", round=1, attempt=1, what="evaluation", releases=[ONE, ONE])
    assert ledger.epsilon().value > before


def test_the_limit_is_of_the_population_and_holds_across_runs() -> None:
    _, ledger = opened()
    alone = ledger.rounds_left([ONE])
    for number in range(1, 6):
        ledger.spend(ledger.reserve("run", round=number, attempt=1))
    ledger.open_run(RunTerms("second", (ONE,), 10, "uniform"))
    assert fill(ledger, "second") == alone - 5
    other = PrivacyLedger(ledger._store, "lungs")
    other.open(LIMIT)
    other.open_run(RunTerms("run", (ONE,), 1, "uniform"))
    assert other.reserve("run", round=1, attempt=1).epsilon.value < 8.0


def test_the_limit_of_a_run_warns_and_does_not_refuse() -> None:
    _, ledger = opened(epsilon=1.5)
    flags = [ledger.reserve("run", round=n, attempt=1).over_run_limit for n in range(1, 8)]
    assert flags == sorted(flags)
    assert flags[0] is False
    assert flags[-1] is True
    assert ledger.epsilon("run").value > 1.5


def test_a_first_run_that_needs_the_whole_budget_has_the_population_alone() -> None:
    """Privacy loss distributions allow it for fixed parameters; no adaptive run comes after."""
    need = epsilon_of({ONE: 10}, delta=1e-5, relation=LIMIT.relation)
    limit = replace(LIMIT, epsilon=need.value + 1e-9)
    store, ledger = opened(limit=limit)
    assert ledger.standing().alone == "run"
    assert ledger.rounds_left([ONE]) == 10
    assert fill(ledger) == 10
    assert ledger.epsilon() == need
    with pytest.raises(Refused, match="kept for run"):
        PrivacyLedger(store, "heart").open_run(RunTerms("second", (ONE,), 1, "uniform"))


def test_a_run_that_has_the_population_alone_releases_what_it_declared() -> None:
    need = epsilon_of({ONE: 10}, delta=1e-5, relation=LIMIT.relation)
    _, ledger = opened(limit=replace(LIMIT, epsilon=need.value + 1e-9))
    with pytest.raises(Refused, match="declared"):
        ledger.reserve("run", round=1, attempt=1, releases=[replace(ONE, sigma=50.0)])


def test_a_second_run_never_has_the_population_alone() -> None:
    _, ledger = opened(rounds=1)
    ledger.open_run(RunTerms("second", (ONE,), 1000, "uniform"))
    assert ledger.standing().alone is None


# --- releases that are chosen as one goes ---------------------------------------------------------

SAMPLED = Release(Mechanism.GAUSSIAN, 0.8, 1.0, Poisson(0.05))


def mixed(limit: float) -> PrivacyLedger:
    _, ledger = opened(limit=replace(LIMIT, epsilon=limit), rounds=1)
    ledger.open_run(RunTerms("sampled", (SAMPLED,), 1, "poisson"))
    return ledger


def divergence_of(ledger: PrivacyLedger, order: float) -> float:
    counts = {release: n for release, n in ledger._state.counts.items() if n}
    return float(total_divergence(counts, LIMIT.relation)[ORDERS.index(order)])


def test_releases_of_several_kinds_are_held_at_one_order_that_nothing_released_could_move() -> None:
    """Else whoever picks kinds by earlier outcomes picks the order, and no theorem covers that."""
    ledger = mixed(6.0)
    order = ORDERS[fixed_order(total_divergence({ONE: 1}, LIMIT.relation), epsilon=6.0, delta=1e-5)]
    budget = 6.0 - (math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1))
    at = {"run": 0, "sampled": 0}
    for turn in range(2000):
        run = ("run", "sampled", "sampled", "sampled")[turn % 4]
        at[run] += 1
        try:
            ledger.reserve(run, round=at[run], attempt=1)
        except BudgetExhausted:
            break
        assert divergence_of(ledger, order) <= budget * (1 + 1e-9)
    held = {release: n for release, n in ledger._state.counts.items() if n}
    best = epsilon_of(held, delta=1e-5, relation=LIMIT.relation, accountant="rdp").value
    assert best < 6.0, "the best order for what was released says less, and would go on"
    assert ledger.epsilon().value == pytest.approx(6.0, abs=0.3)


def test_releases_of_one_kind_lose_nothing_to_that() -> None:
    """Their best order is the fixed one when the limit is reached."""
    for one, selection in ((ONE, "uniform"), (SAMPLED, "poisson")):
        _, ledger = opened(release=one, selection=selection)
        fits = ledger.rounds_left([one])
        more = {one: fits + 1}
        assert fits > 10
        found = epsilon_of(more, delta=1e-5, relation=LIMIT.relation, accountant="rdp")
        assert found.value > 8.0


def test_kinds_whose_divergences_are_proportional_are_one_kind() -> None:
    gaussian = shape_of([ONE])
    assert gaussian == shape_of([replace(ONE, sigma=9.0), Release("discrete_gaussian", 3.0, 1.0)])
    assert shape_of([SAMPLED] * 3) == shape_of([SAMPLED])
    assert shape_of([SAMPLED, ONE]) == shape_of([ONE, SAMPLED, SAMPLED, ONE])
    assert shape_of([SAMPLED, ONE, ONE]) != shape_of([SAMPLED, ONE])
    assert shape_of([SAMPLED]) not in (gaussian, shape_of([replace(SAMPLED, sigma=0.9)]))
    assert shape_of([Release("skellam", 9.0, 1.0, l1=1.0)]) != gaussian


def test_what_is_declared_stays() -> None:
    _, ledger = opened()
    ledger.open(LIMIT)
    ledger.open_run(RunTerms("run", (ONE,), 10, "uniform"))
    with pytest.raises(Refused, match="other terms"):
        ledger.open_run(RunTerms("run", (ONE,), 11, "uniform"))
    with pytest.raises(Refused, match="was opened with"):
        ledger.open(replace(LIMIT, epsilon=9.0))
    with pytest.raises(Refused, match="has not declared"):
        ledger.reserve("stranger", round=1, attempt=1)
    with pytest.raises(Refused, match="no limit yet"):
        PrivacyLedger(MemoryLogStore(), "heart").open_run(RunTerms("run", (ONE,), 1, "uniform"))
    with pytest.raises(Refused, match="reserved nothing"):
        ledger.reservation("run", round=5, attempt=1)


@pytest.mark.parametrize("selection", ["stratified", "hybrid", "oort", "incentive", "uniform"])
def test_amplification_for_a_selector_that_is_not_exactly_the_sampled_one_is_refused(
    selection: str,
) -> None:
    sampled = replace(ONE, sampling=Poisson(0.1))
    with pytest.raises(PlanError, match="amplifies nothing"):
        opened(release=sampled, selection=selection)
    _, ledger = opened(selection=selection)
    with pytest.raises(PlanError, match="amplifies nothing"):
        ledger.reserve("run", round=1, attempt=1, releases=[sampled])
    assert ledger.standing().reserved == 0


def test_a_fixed_size_cohort_is_no_poisson_sample_for_the_ledger_either() -> None:
    with pytest.raises(PlanError, match="not Poisson"):
        opened(release=replace(ONE, sampling=WithoutReplacement(10, 1000)))


def test_no_noise_exhausts_any_budget_at_once() -> None:
    _, ledger = opened(release=replace(ONE, sigma=0.0))
    with pytest.raises(BudgetExhausted):
        ledger.reserve("run", round=1, attempt=1)


# --- crowds and crashes ---------------------------------------------------------------------------


def test_concurrent_reservations_never_exceed_the_limit() -> None:
    store, ledger = opened()
    fits = ledger.rounds_left([ONE])
    made, refused = [], []

    def work(worker: int) -> None:
        mine = PrivacyLedger(store, "heart")
        for number in range(fits):
            try:
                made.append(mine.reserve("run", round=1 + number, attempt=1 + worker))
            except BudgetExhausted:
                refused.append(worker)
                return

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == fits
    assert len({r.number for r in made}) == fits
    assert len(refused) >= 3
    assert PrivacyLedger(store, "heart").epsilon().value <= 8.0


class Dying(MemoryLogStore):
    """A store whose process is killed before or after an append takes effect."""

    def __init__(self, dies_at: int, written: bool) -> None:
        super().__init__()
        self.left, self.written = dies_at, written

    def append_log(self, log, records, *, expect):
        self.left -= 1
        if self.left == 0:
            if self.written:
                super().append_log(log, records, expect=expect)
            raise KeyboardInterrupt
        return super().append_log(log, records, expect=expect)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("dies_at", range(1, 13))
def test_a_kill_at_any_step_never_under_counts(dies_at: int, written: bool) -> None:
    """What went out to clients, or was released, is in the ledger whenever the process died.

    Every second attempt releases nothing and is given back.
    """
    store = Dying(dies_at, written)
    released, reserved, given_back = [], [], []

    def coordinator() -> None:
        ledger = PrivacyLedger(store, "heart")
        ledger.open(LIMIT)
        ledger.open_run(RunTerms("run", (ONE,), 10, "uniform"))
        for number in range(1, 6):
            one = ledger.reserve("run", round=number, attempt=1)
            reserved.append(number)  # tasks go out
            if number % 2:
                ledger.spend(one)
                released.append(number)
            else:
                given_back.append(number)  # nothing was released
                ledger.void(one, reason="no quorum")

    with pytest.raises(KeyboardInterrupt):
        coordinator()
    after = PrivacyLedger(store, "heart")
    if after.head().length < 2:
        assert not reserved
        return
    states = {b.key[1]: b.state for b in after._state.booked.values()}
    assert {states[number] for number in released} <= {"spent"}
    assert {states[number] for number in set(reserved) - set(given_back)} <= {"spent", "reserved"}
    standing = after.standing()
    assert standing.reserved + standing.spent >= len(set(reserved) - set(given_back))
    again = PrivacyLedger(MemoryLogStore(), "heart")
    again.open(LIMIT)
    again.open_run(RunTerms("run", (ONE,), 10, "uniform"))
    for number in set(reserved) - set(given_back):
        again.reserve("run", round=number, attempt=1)
    assert standing.epsilon.value >= again.epsilon().value - 1e-12


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["reserve", "spend", "void", "reopen", "second"]), max_size=40))
def test_any_history_keeps_the_limit_and_replays_to_the_same_standing(steps: list[str]) -> None:
    store, ledger = opened(limit=replace(LIMIT, epsilon=2.0))
    pending, number = [], 0
    for step in steps:
        if step == "reserve":
            number += 1
            try:
                pending.append(ledger.reserve("run", round=number, attempt=1))
            except BudgetExhausted:
                assert ledger.rounds_left([ONE]) == 0
        elif step == "reopen":
            ledger = PrivacyLedger(store, "heart")
        elif step == "second":
            ledger.open_run(RunTerms("second", (ONE,), 3, "uniform"))
        elif pending and step == "spend":
            ledger.spend(pending.pop())
        elif pending:
            ledger.void(pending.pop(), reason="test")
        assert ledger.epsilon().value <= 2.0
    again = PrivacyLedger(store, "heart").standing()
    found = ledger.standing()
    assert again.epsilon.value == pytest.approx(found.epsilon.value, rel=1e-9, abs=1e-12)
    assert (again.reserved, again.spent, again.voided) == (
        found.reserved, found.spent, found.voided,
    )  # fmt: skip


# --- the chain ------------------------------------------------------------------------------------


def busy() -> tuple[MemoryLogStore, PrivacyLedger]:
    store, ledger = opened()
    for number in range(1, 4):
        ledger.spend(ledger.reserve("run", round=number, attempt=1))
    return store, ledger


def edits():
    def change(records, at, **fields):
        records[at] = Record(records[at].kind, {**records[at].body, **fields})

    yield "epsilon", lambda r: change(r, 2, epsilon=0.0)
    yield "limit", lambda r: change(r, 0, limit={**LIMIT.as_json(), "epsilon": 99.0})
    yield "kind", lambda r: r.__setitem__(3, Record("voided", r[3].body))
    yield "hash", lambda r: change(r, 4, hash="0" * 64)
    yield "gap", lambda r: r.pop(3)
    yield "first", lambda r: r.pop(0)
    yield "order", lambda r: r.__setitem__(slice(2, 4), r[2:4][::-1])
    yield "twice", lambda r: r.append(r[-1])


@pytest.mark.parametrize(
    ("name", "edit"), list(edits()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_edit_a_gap_or_a_reorder_is_found(name: str, edit) -> None:
    store, ledger = busy()
    ledger.verify()
    edit(store._logs[LOG])
    with pytest.raises(TamperedLedger):
        ledger.verify()
    with pytest.raises(TamperedLedger):
        PrivacyLedger(store, "heart")


def test_entries_that_follow_by_hash_and_not_by_meaning_are_found() -> None:
    for kind, fields in (
        ("spent", {"reservation": 2}),  # spent already
        ("spent", {"reservation": 77}),
        ("opened", {"limit": LIMIT.as_json()}),
        ("forgiven", {}),
        ("reserved", {"run": "run"}),
        ("voided", {"reservation": 2, "reason": "x"}),
    ):
        store, ledger = busy()
        forged = ledger._state.entry(kind, fields)
        store._logs[LOG].append(forged)
        with pytest.raises(TamperedLedger):
            ledger.verify()


def test_a_ledger_older_than_a_witnessed_head_is_refused() -> None:
    store, ledger = busy()
    seen = ledger.head()
    ledger.check_witness(seen)
    ledger.check_witness(Head(0, "0" * 64))
    del store._logs[LOG][-1]
    back = PrivacyLedger(store, "heart")  # consistent by itself
    with pytest.raises(RolledBackLedger, match="8 were seen"):
        back.check_witness(seen)
    with pytest.raises(TamperedLedger):
        ledger.verify()
    with pytest.raises(RolledBackLedger):
        ledger.reserve("run", round=9, attempt=1)


def test_a_ledger_that_was_written_anew_is_found_by_a_witness() -> None:
    _, ledger = busy()
    seen = ledger.head()
    _, other = busy()
    other._store._logs[LOG][:] = []
    again = PrivacyLedger(other._store, "heart")
    again.open(replace(LIMIT, epsilon=1000.0))
    again.open_run(RunTerms("run", (ONE,), 10, "uniform"))
    for number in range(1, 9):
        again.reserve("run", round=number, attempt=1)
    with pytest.raises(TamperedLedger, match="not the one that was seen"):
        again.check_witness(seen)


def test_a_log_that_always_conflicts_is_not_waited_for_without_end() -> None:
    class Busy(MemoryLogStore):
        def append_log(self, log, records, *, expect):
            raise Conflict("busy")

    with pytest.raises(RolledBackLedger):
        PrivacyLedger(Busy(), "heart").open(LIMIT)


@pytest.mark.parametrize("name", ["", "a/b", "a\n"])
def test_a_population_is_a_word(name: str) -> None:
    with pytest.raises(ConfigError, match="population"):
        PrivacyLedger(MemoryLogStore(), name)


# --- release --------------------------------------------------------------------------------------


def test_a_release_spends_its_reservation_and_carries_its_epsilon() -> None:
    _, ledger = opened()
    gate = run_ledger(ledger, "run")
    secret = Private(41).map(lambda n: n + 1)
    with pytest.raises(Refused, match="reserved nothing"):
        gate.release(secret, what="model", round=1, attempt=1)
    one = ledger.reserve("run", round=1, attempt=1)
    for _ in range(2):  # a release that is done again is the same release
        released = gate.release(secret, what="model", round=1, attempt=1)
        assert released.value == 42
        assert released.event.mechanism == "gaussian"
        assert (released.event.epsilon, released.event.delta) == (one.epsilon.value, 1e-5)
    assert ledger.standing().spent == 1


def test_a_voided_attempt_releases_nothing() -> None:
    _, ledger = opened()
    ledger.void(ledger.reserve("run", round=1, attempt=1), reason="no quorum")
    with pytest.raises(Refused, match="voided"):
        run_ledger(ledger, "run").release(Private(1), what="model", round=1, attempt=1)


def test_reserving_round_one_thousand_takes_less_than_fifty_milliseconds() -> None:
    sampled = Release(Mechanism.GAUSSIAN, 1.0, 1.0, Poisson(0.001))
    _, ledger = opened(release=sampled, rounds=2000, selection="poisson")
    for number in range(1, 1000):
        ledger.spend(ledger.reserve("run", round=number, attempt=1))
    times = []
    for number in range(1000, 1010):
        start = time.process_time()
        ledger.reserve("run", round=number, attempt=1)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
    assert not math.isinf(ledger.epsilon().value)


def test_a_limit_that_is_exactly_what_a_run_plans_is_enough_for_its_last_round() -> None:
    """Twelve terms that are added up one by one are not always twelve times one, to the last bit.

    The release is one of a real run, whose last round was refused for it.
    """
    dimension, scale, variance = 8192, 16384.000000000004, 604021349.8233768
    terms = Distributed(
        1.0, scale, variance, dimension=7850, cohort=100, survivors=51, corrupt=5, ring_bits=32
    )
    assert terms.size == dimension
    relation = Relation.ZERO_OUT
    found = epsilon_of({terms.release: 12}, delta=1e-5, relation=relation).value
    limit = Limit(found, 1e-5, PrivacyUnit.USER, relation)
    _, ledger = opened(limit=limit, release=terms.release, rounds=12)
    assert fill(ledger) == 12
