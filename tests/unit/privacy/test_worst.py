"""Losses over clients of which the number of records is roughly known."""

import pytest

from choral.core.errors import ConfigError, PlanError
from choral.core.plan import Local
from choral.privacy.record import record_epsilon, sampling_rate, steps_of
from choral.privacy.worst import MOST_CASES, Trainings, _cases, _frontier, _grouped, worst_loss

DELTA = 1e-5
NOISE = {"max_grad_norm": 1.0, "noise_multiplier": 2.0}


def terms(**changes):
    return Local(**{"batch_size": 32, "record": NOISE, **changes})


def covered(cases, rate, steps):
    return any(q >= rate and t >= steps for q, t in cases)


def test_a_client_that_is_known_exactly_loses_what_is_computed_for_it():
    local = terms(steps=5, batch_size=20)
    client = [Trainings(200, 200, 3)]
    exact = worst_loss(local, client, delta=DELTA)
    assert exact == pytest.approx(record_epsilon(local, 200, 3).value)
    assert exact < worst_loss(local, client, delta=DELTA, exact=False) < 1.3 * exact


@pytest.mark.parametrize("changes", [{}, {"epochs": 3}, {"batch_size": 7}, {"steps": 4}])
@pytest.mark.parametrize(("least", "most"), [(1, 2), (30, 35), (33, 64), (103, 256), (5, 4000)])
def test_every_number_of_records_between_the_two_is_covered(changes, least, most):
    local = terms(**changes)
    cases = list(_cases(local, Trainings(least, most, 2)))
    kept = _grouped(_frontier(cases))
    assert len(kept) <= MOST_CASES
    for n in range(least, most + 1):
        rate, steps = sampling_rate(local, n), 2 * steps_of(local, n)
        assert covered(cases, rate, steps), n
        assert covered(kept, rate, steps), n


def test_very_many_records_cost_few_cases():
    assert len(list(_cases(terms(), Trainings(2**39, 2**40, 1)))) <= MOST_CASES


def test_one_record_more_may_lose_more():
    """33 records are drawn less often than 32, in twice as many steps."""
    local = terms()

    def loss(least, most):
        return worst_loss(local, [Trainings(least, most, 4)], delta=DELTA, exact=False)

    alone = [loss(n, n) for n in (32, 33)]
    assert alone[1] > alone[0]
    both = loss(32, 33)
    assert both == pytest.approx(alone[1])


def test_the_client_that_trains_more_often_or_on_fewer_records_decides():
    local = terms(batch_size=None)
    clients = [Trainings(50, 50, 2), Trainings(900, 900, 5), Trainings(10, 10, 0)]
    assert worst_loss(local, clients, delta=DELTA) == record_epsilon(local, 900, 5).value
    assert worst_loss(local, [], delta=DELTA) == 0.0


def test_bad_numbers_and_noise_that_is_not_known():
    with pytest.raises(ConfigError):
        Trainings(0, 5, 1)
    with pytest.raises(ConfigError, match="from 6 to 5"):
        Trainings(6, 5, 1)
    each = {"max_grad_norm": 1.0, "epsilon": 1.0, "delta": DELTA, "rounds": 2}
    with pytest.raises(PlanError, match="own noise"):
        worst_loss(terms(record=each), [Trainings(5, 5, 1)], delta=DELTA)
