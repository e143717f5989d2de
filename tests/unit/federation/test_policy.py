"""Goals, quorums and counts, by hand."""

import math

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.federation.policy import RoundPolicy, RunPolicy, clients_of


@pytest.mark.parametrize(("clients", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (10, 6)])
def test_the_default_quorum_is_the_majority_and_at_least_two(clients, quorum):
    names = tuple(map(str, range(clients)))
    assert RoundPolicy(clients=clients).cohort(names).quorum == quorum


def test_a_smaller_cohort_lowers_goal_and_quorum():
    cohort = RoundPolicy(clients=10).cohort(("a", "b", "c"))
    assert (cohort.goal, cohort.quorum) == (3, 2)


def test_a_given_quorum_stays():
    assert RoundPolicy(clients=10, quorum=7).cohort(("a", "b")).quorum == 7


@pytest.mark.parametrize(
    ("clients", "factor", "population", "invited"),
    [(10, 1.0, 100, 10), (10, 1.25, 100, 13), (10, 1.1, 100, 11), (10, 2.0, 15, 15)],
)
def test_over_selection(clients, factor, population, invited):
    assert RoundPolicy(clients=clients, over_selection=factor).invited(population) == invited


@pytest.mark.parametrize(
    "bad",
    [
        {"clients": 0},
        {"goal": 5},
        {"goal": 0},
        {"quorum": 5},
        {"goal": 2, "quorum": 3},
        {"over_selection": 0.9},
        {"over_selection": math.nan},
        {"deadline_s": 0},
        {"deadline_s": math.nan},
        {"grace_s": -1},
        {"retries": -1},
        {"backoff_s": math.nan},
        {"clients": 2.5},
        {"clients": "4"},
        {"goal": 1.5},
        {"goal": True},
        {"quorum": "2"},
        {"over_selection": "1.3"},
        {"over_selection": True},
        {"deadline_s": "10"},
        {"deadline_s": math.inf},
        {"grace_s": None},
        {"retries": 0.5},
        {"backoff_s": "1"},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(bad):
    with pytest.raises(ConfigError, match="expected"):
        RoundPolicy(**{"clients": 4, **bad})


def test_numbers_are_normalised():
    policy = RoundPolicy(np.int64(4), goal=np.int8(3), deadline_s=5, grace_s=np.float32(0.5))
    assert policy == RoundPolicy(4, goal=3, deadline_s=5.0, grace_s=0.5)
    assert repr(policy) == repr(RoundPolicy(4, goal=3, deadline_s=5.0, grace_s=0.5))
    assert repr(RunPolicy(np.int64(2), policy, np.int64(1))) == repr(RunPolicy(2, policy, 1))


@pytest.mark.parametrize("rounds", [0, 2.5, "3", True, None])
def test_a_run_needs_a_round(rounds):
    with pytest.raises(ConfigError, match=f"rounds {rounds!r}: expected a whole number from 1"):
        RunPolicy(rounds, RoundPolicy(clients=1))


@pytest.mark.parametrize("every", [-1, 0.5, "1", None])
def test_evaluations_are_rounds_apart(every):
    with pytest.raises(ConfigError, match=rf"evaluation\.every {every!r}: expected"):
        RunPolicy(1, RoundPolicy(clients=1), every)


@pytest.mark.parametrize(
    ("asked", "population", "count"),
    [
        *((None, 7, 7), (3, 7, 3), (1, 7, 1), (1.0, 7, 1), (np.int64(3), 7, 3)),
        *((0.5, 7, 4), (0.1, 20, 2), (0.01, 5, 1), (np.float64(0.5), 7, 4)),
    ],
)
def test_clients_per_round(asked, population, count):
    assert type(clients_of(asked, population)) is int
    assert clients_of(asked, population) == count


@pytest.mark.parametrize("asked", [0, -1, 2.5, True, math.nan, math.inf, "3", [3]])
def test_clients_per_round_out_of_range(asked):
    with pytest.raises(ConfigError, match="clients_per_round"):
        clients_of(asked, 10)
