"""What a plan with secure aggregation means, and which plans are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.aggregation import MODULI, SUITES, RingGrid, Secure
from choral.core.errors import ChoralError, ConfigError, PlanError, UnknownName
from choral.core.keys import Key
from choral.crypto.fixed_point import check_no_overflow
from choral.crypto.ring import Ring
from choral.federation import secure
from choral.federation.compose import aggregation_of
from choral.federation.policy import RoundPolicy
from choral.secagg.parameters import Suite

TRIM = {"name": "trimmed_mean", "trim": 0.5}


@pytest.mark.parametrize(("clients", "losses"), [(3, 0), (4, 1), (5, 1), (6, 1), (7, 2), (100, 33)])
def test_the_quorum_is_the_threshold(clients, losses):
    assert secure.quorum_of(Secure(), clients) == clients - losses
    cohort = RoundPolicy(clients, secure=Secure()).cohort(tuple(map(str, range(clients))))
    assert cohort.quorum == clients - losses
    assert cohort.goal == clients


def test_no_goal_is_below_the_threshold():
    cohort = RoundPolicy(6, goal=2, secure=Secure()).cohort(tuple("abcdef"))
    assert (cohort.goal, cohort.quorum) == (5, 5)


def test_the_floor_can_be_above_the_threshold():
    assert secure.quorum_of(Secure(min_cohort=6), 7) == 6
    assert secure.min_cohort_of(Secure(), 129) == 64


def test_groups_need_a_majority_of_sums():
    terms = Secure(groups=3, rule="median")
    assert secure.sizes_of(terms, 16) == (6, 5, 5)
    assert secure.quorum_of(terms, 16) == 8  # two groups of 5, threshold 4


@pytest.mark.parametrize(
    ("terms", "clients", "words"),
    [
        (Secure(), 2, "floor of 3"),
        (Secure(min_cohort=4), 3, "floor of 4"),
        (Secure(groups=3, rule="median"), 8, "floor of 3"),
        (Secure(suite="full"), 129, "up to 128"),
        (Secure(suite="graph"), 128, "above 128"),
        (Secure(modulus_bits=16), 400, "at least 8"),
        (Secure(corrupt=0.5, dropout=0.3), 200, "below 1"),
    ],
    ids=str,
)
def test_cohorts_that_cannot_work(terms, clients, words):
    with pytest.raises(PlanError, match=words):
        secure.check_cohort(terms, clients)


def test_two_clients_must_be_asked_for_by_name():
    with pytest.raises(PlanError, match="min_cohort: 2"):
        secure.check_cohort(Secure(), 2)
    secure.check_cohort(Secure(min_cohort=2), 2)
    assert secure.quorum_of(Secure(min_cohort=2), 2) == 2


@given(
    clients=st.integers(2, 5000),
    modulus=st.sampled_from([16, 24, 32, 64]),
    groups=st.integers(1, 4),
)
def test_no_sum_can_overflow(clients, modulus, groups):
    terms = Secure(modulus_bits=modulus, groups=groups)
    try:
        bits = secure.bits_of(terms, clients)
    except PlanError:
        return
    check_no_overflow(
        bits=bits,
        clients=max(secure.sizes_of(terms, clients)),
        modulus_bits=modulus,
        noise_headroom=0,
    )


@given(clients=st.integers(1, 60), groups=st.integers(1, 5), seed=st.integers(0, 9))
def test_groups_share_the_cohort_out(clients, groups, seed):
    names = tuple(f"c{i}" for i in range(clients))
    parts = secure.split(names, Secure(groups=groups), Key.root(seed))
    assert sorted(c for part in parts for c in part) == sorted(names)
    assert tuple(len(part) for part in parts) == secure.sizes_of(Secure(groups=groups), clients)


def test_groups_are_drawn_anew():
    names = tuple(f"c{i}" for i in range(12))
    drawn = {secure.split(names, Secure(groups=2), Key.root(1).fold(i)) for i in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"secure": {"suite": "ful"}}, UnknownName, "full"),
        ({"secure": {"groups": 0}}, ConfigError, "groups"),
        ({"secure": {"min_cohort": 1}}, ConfigError, "min_cohort"),
        ({"secure": {"modulus_bits": 31}}, ConfigError, "16, 24, 32"),
        ({"secure": {"dropout": 1}}, ConfigError, "dropout"),
        ({"secure": {"rule": "median"}}, PlanError, "every client's update"),
        ({"secure": {"groups": 2, "rule": "medain"}}, UnknownName, "median"),
        (
            {"secure": {"groups": 2, "rule": {"name": "trimmed_mean", "trim": 0.5}}},
            ConfigError,
            "trim",
        ),
        ({"secure": {"groups": 2}}, PlanError, "without a rule"),
        ({"secure": {"groups": 2, "rule": "median"}}, PlanError, "withstands no liar"),
        ({"secure": {"groups": 4, "rule": "trimmed_mean"}}, PlanError, "larger `trim`"),
        ({"secure": {}, "rule": "median"}, ConfigError, "unknown aggregation"),
        ("", ConfigError, "unknown aggregation"),
        ({}, ConfigError, "unknown aggregation"),
        (3, ConfigError, "unknown aggregation"),
    ],
    ids=str,
)
def test_terms_that_are_wrong(value, error, words):
    with pytest.raises(error, match=words):
        aggregation_of(value)


def test_terms_that_are_right():
    assert aggregation_of("secure") == Secure()
    assert aggregation_of({"secure": None}) == Secure()
    assert aggregation_of({"secure": {"min_cohort": 5}}) == Secure(min_cohort=5)
    assert aggregation_of(Secure(groups=1)) == Secure()


def test_a_grid_counts_whole_examples():
    grid = RingGrid(200, 1000, 29, 32, ())
    assert (grid.range, grid.weight_unit, grid.one) == (256.0, 1024.0, 2**27)


def test_the_words_of_a_plan_are_those_of_the_protocol():
    assert tuple(Suite) == SUITES
    for bits in MODULI:
        assert Ring(bits).bits == bits


def test_the_promise_is_that_of_the_smallest_group():
    promise = secure.promise_of(Secure(groups=2, rule="median"), 9)
    assert promise["group_size"] == 4
    assert promise["threshold"] == 3
    assert secure.promise_of(Secure(), 4) == {
        "kind": "secure",
        "suite": "full",
        "threat_model": "active",
        "threshold": 3,
        "tolerated_losses": 1,
    }
    assert secure.promise_of(Secure(), 1000)["threat_model"] == "semi-malicious"
    assert secure.promise_of(Secure(suite="semi_honest"), 9)["threat_model"] == "semi-honest"


def test_every_refusal_has_a_hint():
    for terms, clients in ((Secure(), 2), (Secure(suite="full"), 129)):
        with pytest.raises(ChoralError) as caught:
            secure.check_cohort(terms, clients)
        assert caught.value.hint
    assert np.isfinite(Secure().corrupt)
