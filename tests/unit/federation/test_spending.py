"""A run's part of the ledger: one release a reservation, whoever believes that they drive it."""

import numpy as np
import pytest

from choral.core.errors import Fenced
from choral.core.exact import ExactSum
from choral.data import as_source
from choral.federation import events as ev
from choral.federation.calibration import protected
from choral.federation.compose import compose
from choral.federation.conductor import Conductor, Restored
from choral.federation.journal import Journal
from choral.federation.spending import spending_of
from choral.federation.sums import closed_exactly
from choral.privacy.ledger import PrivacyLedger
from choral.stores.memory import MemoryBlobStore, MemoryLogStore, MemoryRunStore
from choral.system import SystemClock, SystemRand

CLIENTS = tuple(f"c{i}" for i in range(8))


class Task:
    def init(self, key):
        return {"w": np.zeros(8, np.float32)}

    def train(self, params, data, plan, key):
        raise NotImplementedError

    def evaluate(self, params, data):
        return {}


class OpenSum:
    """A sum that closes at once, over nothing."""

    bytes_up = bytes_down = 0
    norm_max = None

    def __init__(self, plan):
        self.plan = plan

    def accept(self, client):
        """There is nothing to add."""

    def close(self, survivors):
        if self.plan.privacy.central:
            return closed_exactly(ExactSum(8, self.plan.encoding), self.plan)
        return None  # its driver tells how it ends


class Site:
    """The stores of one run, and drivers that go on with it one after the other."""

    def __init__(self, aggregation):
        setup = compose(
            Task(), as_source({c: list(range(5)) for c in CLIENTS}, seed=1), run_id="r", seed=1,
            name="n", task_name="t", rounds=3, aggregation=aggregation,
            privacy={"noise_multiplier": 2.0, "max_norm": 1.0},
        )  # fmt: skip
        self.participant, self.first = setup.participant()
        self.setup = protected(setup, self.participant.spec)
        self.runs, self.blobs, self.logs = MemoryRunStore(), MemoryBlobStore(), MemoryLogStore()
        self.runs.create("r", {})

    def driver(self, *, restores=True):
        """Return a driver that takes the run over."""
        journal = Journal(self.runs, self.blobs, self.runs.acquire("r"))

        def restore(cohort, accepted):
            if not restores:
                return None
            plan = conductor.plan_of(cohort, round=1, attempt=1)
            return Restored(plan, OpenSum(plan), tuple(accepted))

        conductor = Conductor(
            self.setup,
            participant=self.participant,
            first=self.first,
            journal=journal,
            clock=SystemClock(),
            new_sum=lambda plan, clients: OpenSum(plan),
            spending=spending_of(self.setup, 8, store=self.logs, rand=SystemRand()),
            restore=restore,
        )
        conductor.journal = journal
        return conductor

    def collected(self, conductor):
        """Bring a new run to where all clients have answered; return the command that follows."""
        conductor.begin()
        _, invite = conductor.take(ev.CohortChosen(1, 1, CLIENTS))
        conductor.opened(invite)
        for client in CLIENTS:
            *_, last = conductor.take(ev.UpdateReceived(1, 1, client))
        conductor.journal.flush()
        return last

    @property
    def states(self):
        booked = PrivacyLedger(self.logs, "r")._state.booked.values()
        return [one.state for one in booked]


def test_two_drivers_of_one_round_never_draw_noise_twice_under_one_reservation():
    """The first is stopped before it closes the sum; it wakes up when another one has closed it."""
    site = Site("plain")
    first = site.driver()
    close = site.collected(first)
    second = site.driver()
    second.begin()
    assert isinstance(second.do(close), ev.Aggregated)
    with pytest.raises(Fenced):
        first.do(close)
    assert first.attempt.total is None
    assert site.states == ["spent"]


def test_of_two_who_claim_a_reservation_one_gets_it():
    site = Site("plain")
    one, two = (spending_of(site.setup, 8, store=site.logs, rand=SystemRand()) for _ in range(2))
    one.reserve(1, 1)
    two.reserve(1, 1)
    claims = [one.claim(1, 1), two.claim(1, 1)]
    assert claims == [True, False]
    again = spending_of(site.setup, 8, store=site.logs, rand=SystemRand())
    assert again.claim(1, 1) is False
    assert again.reserve(1, 1) is False, "a process after it takes the round up as a new attempt"
    again.void(1, 1, reason="test")
    assert site.states == ["spent"]


def test_an_attempt_whose_noise_was_drawn_is_tried_again_as_another():
    site = Site("plain")
    first = site.driver()
    first.do(site.collected(first))
    second = site.driver()
    commands = second.begin()
    assert second.do(commands[-1]) == ev.SumFailed(1, 1, "restarted")


def test_who_was_taken_over_gives_nothing_back():
    """Else the one who goes on would open a sum that the ledger says was never opened."""
    for aggregation in ("plain", "secure"):
        site = Site(aggregation)
        first = site.driver()
        site.collected(first)
        site.driver().begin()
        with pytest.raises(Fenced):
            first.do(ev.Abandon(1, 1, "no_quorum"))
        assert site.states == ["reserved"]


def test_who_drives_the_run_gives_back_what_was_not_opened():
    for aggregation in ("plain", "secure"):
        site = Site(aggregation)
        first = site.driver()
        site.collected(first)
        first.do(ev.Abandon(1, 1, "no_quorum"))
        assert site.states == ["voided"]


def test_a_sum_that_may_have_been_opened_before_a_restart_is_never_given_back():
    site = Site("secure")
    first = site.driver()
    site.collected(first)  # sealed: its survivors are fixed, and clients may be unmasking
    second = site.driver()
    second.begin()
    second.do(ev.Abandon(1, 1, "no_quorum"))
    assert site.states == ["reserved"]


def test_a_storage_that_says_no_once_loses_no_reservation_that_is_given_back():
    site = Site("plain")
    first = site.driver()
    site.collected(first)
    whole = first._spending.void
    calls = []

    def void(*at, **why):
        calls.append(at)
        if len(calls) == 1:
            raise Fenced("for once")
        whole(*at, **why)

    first._spending.void = void
    with pytest.raises(Fenced):
        first.do(ev.Abandon(1, 1, "no_quorum"))
    first.do(ev.Abandon(1, 1, "no_quorum"))
    assert site.states == ["voided"]
