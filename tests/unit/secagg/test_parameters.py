import itertools
import math
from dataclasses import replace

import pytest

from choral.core.errors import ConfigError, PlanError, Refused
from choral.secagg import parameters
from choral.secagg.hypergeometric import log2_tails
from choral.secagg.parameters import Parameters, Suite, ThreatModel, find, verify


@pytest.mark.parametrize(
    ("clients", "semi_honest", "k", "t"),
    [
        (1_000, True, 36, 19),
        (10_000, True, 42, 22),
        (100_000, True, 46, 23),
        (1_000, False, 78, 52),
        (10_000, False, 96, 64),
        (100_000, False, 106, 70),
    ],
)
def test_the_check_values_of_the_design(clients, semi_honest, k, t):
    found = find(clients, semi_honest=semi_honest, beacon=not semi_honest)
    assert (found.k, found.t, found.sigma) == (k, t, 40)
    verify(found)


def test_full_threshold_and_tolerated_losses():
    assert [find(n).tolerated_losses for n in (3, 4, 5, 6, 7)] == [0, 1, 1, 1, 2]
    assert find(100).t == 67
    assert find(4).threat_model is ThreatModel.ACTIVE
    assert [find(n, semi_honest=True).t for n in (2, 3, 4, 5, 100)] == [2, 2, 3, 3, 51]


@pytest.mark.parametrize("clients", range(2, 129))
def test_two_quorums_of_full_share_more_than_a_third(clients):
    t = find(clients, dropout=0).t
    assert 2 * t - clients > clients // 3


def test_no_beacon_costs_forty_bits_and_the_name():
    found = find(1_000)
    assert (found.sigma, found.threat_model) == (80, ThreatModel.SEMI_MALICIOUS)
    assert found.t > find(1_000, beacon=True).t
    assert find(1_000, beacon=True).threat_model is ThreatModel.SEMI_MALICIOUS


@pytest.mark.parametrize(("corrupt", "dropout"), [(0.4, 0.3), (0.0, 0.5), (0.9, 0.1)])
@pytest.mark.parametrize("clients", [10, 1_000])
def test_an_active_server_needs_gamma_plus_two_delta_below_one(clients, corrupt, dropout):
    with pytest.raises(PlanError, match="below 1"):
        find(clients, corrupt=corrupt, dropout=dropout)


def test_no_graph_is_large_enough():
    with pytest.raises(PlanError, match="no graph of up to 4095 neighbours"):
        find(100_000, corrupt=0.3, dropout=0.3)


def test_full_refuses_more_than_its_threshold_tolerates():
    with pytest.raises(PlanError, match="tolerates 3"):
        find(10, corrupt=0.4)
    with pytest.raises(PlanError, match="threshold 67 tolerates 33"):
        find(100, corrupt=0.1, dropout=0.4)


@pytest.mark.parametrize("clients", [1, 0, 100_001, 2.5])
def test_cohorts_out_of_range(clients):
    with pytest.raises(ConfigError):
        find(clients)


def test_json_is_the_contract():
    assert find(4).as_json() == {
        "suite": "full",
        "clients": 4,
        "k": 3,
        "t": 3,
        "corrupt": 0.05,
        "dropout": 0.1,
        "sigma": 40,
        "threat_model": "active",
        "tolerated_losses": 1,
    }


@pytest.mark.parametrize(
    "weaker",
    [
        {"t": 51},
        {"k": 76, "t": 50},
        {"sigma": 39},
        {"beacon": False},
        {"corrupt": 0.06},
        {"corrupt": math.nan},
        {"dropout": 0.5},
        {"suite": Suite.FULL},
        {"k": 1000},
        {"t": 80},
        {"clients": 100_000},
    ],
)
def test_a_client_refuses_weaker_parameters(weaker):
    with pytest.raises(Refused):
        verify(replace(find(1_000, beacon=True), **weaker))


def test_a_client_refuses_a_lower_threshold_of_full():
    verify(find(100))
    verify(replace(find(100), t=70))
    with pytest.raises(Refused, match="needs at least 67"):
        verify(replace(find(100), t=66))
    with pytest.raises(Refused):
        verify(replace(find(100), k=98))


def test_minimum_cohorts():
    assert (parameters.MIN_COHORT_SILOS, parameters.MIN_COHORT_DEVICES) == (3, 64)


def test_tails_against_counting_every_draw():
    marked = {0, 1, 2}
    draws = list(itertools.combinations(range(8), 4))
    tails = log2_tails(population=8, marked=3, draws=4)
    for x in range(5):
        exact = sum(len(marked & set(d)) >= x for d in draws) / len(draws)
        assert 2 ** tails[x] == pytest.approx(exact)
    assert tails[5] == -math.inf


def test_tails_where_some_marked_ones_are_always_drawn():
    tails = log2_tails(population=5, marked=4, draws=3)
    assert tails[:3].tolist() == [0, 0, 0]
    assert 2 ** tails[3] == pytest.approx(4 / 10)


def test_tails_match_exact_integers_far_out():
    n, m, k, x = 999, 50, 36, 18
    total = sum(math.comb(m, i) * math.comb(n - m, k - i) for i in range(x, k + 1))
    exact = math.log2(total) - math.log2(math.comb(n, k))
    assert log2_tails(population=n, marked=m, draws=k)[x] == pytest.approx(exact, abs=1e-7)


def test_every_found_value_verifies():
    for n in (2, 3, 64, 128, 129, 130, 500):
        for semi_honest in (False, True):
            found = find(n, semi_honest=semi_honest)
            verify(found)
            assert isinstance(found, Parameters)
