"""A run's own account of its clients' records."""

import pytest

from choral.core.errors import PlanError
from choral.core.plan import Local
from choral.core.protection import RecordPromise
from choral.core.release import Private
from choral.federation.calibration import record_terms
from choral.federation.events import CohortChosen, Restarted, from_record, to_record
from choral.federation.recorded import RecordAccount
from choral.privacy.record import record_epsilon
from choral.privacy.terms import Privacy

LOCAL = Local(batch_size=None, record={"max_grad_norm": 1.0, "noise_multiplier": 8.0})
"""All records in every step, so that the exact formula holds and is quick."""


def account(limit=None, rounds=3, local=LOCAL, sizes=None):
    sizes = sizes or {"a": (50, 50), "b": (40, 90)}
    promise = RecordPromise(1e-5, rounds, dimension=4, limit=limit)
    return RecordAccount(promise, local, lambda client: sizes[client])


def choose(found, *clients, round=1, attempt=1):
    event = found.sized(CohortChosen(round, attempt, clients))
    found(event)
    return event


def loss(times):
    return record_epsilon(LOCAL, 50, times, delta=1e-5, dimension=4).value


def test_a_cohort_is_logged_with_the_numbers_of_its_records():
    event = choose(account(), "b", "a")
    assert event.records == (40, 90, 50, 50)
    assert from_record(to_record(event)) == event
    other = Restarted(("a",), intact=True)
    assert account().sized(other) is other


def test_every_attempt_that_a_client_is_asked_for_counts():
    found = account()
    choose(found, "a", "b")
    assert loss(1) <= (once := found.epsilon) < 1.15 * loss(1)  # quick, and a bit above
    choose(found, "b", attempt=2)
    assert loss(2) <= (twice := found.epsilon) < 1.15 * loss(2)
    choose(found, "a", round=2)
    assert once < found.epsilon == twice
    choose(found, "a", round=3)
    assert found.epsilon == pytest.approx(loss(3), rel=1e-6)  # what was planned, exactly
    choose(found, "a", round=3, attempt=2)
    assert found.epsilon == pytest.approx(loss(4), rel=1e-6)  # more than was planned


def test_a_log_that_is_replayed_gives_the_same_account_without_the_clients():
    first, again = account(), account(sizes={"never": (1, 1)})
    for round_ in (1, 2):
        again(choose(first, "a", "b", round=round_))
    assert again.epsilon == first.epsilon
    assert again.sized(CohortChosen(3, 1, ("a",))).records == (50, 50)


def test_a_limit_ends_the_run_before_anybody_is_asked():
    found = account(limit=1.01 * loss(2))
    for round_ in (1, 2):
        choose(found, "a", "b", round=round_)
        assert found.exhausted(round_) is None
    choose(found, "a", round=3)
    assert "would lose epsilon" in found.exhausted(3).message


def test_noise_that_clients_find_is_for_the_planned_rounds():
    each = record_terms(Local(), Privacy(epsilon=2.0, mode="record"), rounds=2)
    assert (each.record.rounds, each.record.noise_multiplier) == (2, None)
    found = account(limit=2.0, rounds=2, local=each)
    for attempt in (1, 2):
        choose(found, "a", "b", attempt=attempt)
        assert found.exhausted(1) is None
        assert found.epsilon == 2.0
    choose(found, "b", attempt=3)
    assert "`b` would be asked to train 3 times" in found.exhausted(1).message


def test_a_release_says_its_mechanism():
    found = account()
    choose(found, "a")
    event = found.ledger().release(Private(1), what="model", round=1, attempt=1).event
    assert (event.mechanism, event.delta) == ("gaussian", 1e-5)
    assert event.epsilon == found.epsilon


@pytest.mark.parametrize(
    ("local", "wish", "words"),
    [
        (LOCAL, {}, "said twice"),
        (Local(), {"relation": "replace"}, "add_remove"),
        (Local(), {"mechanism": "skellam"}, "Gaussian"),
        (Local(), {"budget": {"epsilon": 9}}, "each site counts"),
    ],
)
def test_what_does_not_go_with_the_mode(local, wish, words):
    with pytest.raises(PlanError, match=words):
        record_terms(local, Privacy(epsilon=1, mode="record", **wish), rounds=1)
