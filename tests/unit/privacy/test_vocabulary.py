"""The words of privacy: JSON forms, and what is refused by name."""

from __future__ import annotations

import json
import math

import pytest

from choral.core.errors import ConfigError, PlanError, UnknownName
from choral.privacy.vocabulary import (
    Epsilon,
    Mechanism,
    MinSeparation,
    NoSampling,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    WithoutReplacement,
    check_delta,
    check_epsilon,
    delta_warning,
    release_of,
    sampling_json,
    sampling_of,
)

SAMPLINGS = [
    Poisson(0.01),
    Poisson(0.01, cap=30, population=1000),
    WithoutReplacement(10, 100),
    MinSeparation(20, 3),
    NoSampling(),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: s.name)
def test_a_sampling_and_a_release_survive_json(sampling) -> None:
    assert sampling_of(json.loads(json.dumps(sampling_json(sampling)))) == sampling
    one = Release(Mechanism.SKELLAM, 3.0, 1.5, sampling, l1=2.0, dimension=7, addends=2)
    again = release_of(json.loads(json.dumps(one.as_json())))
    assert again == one
    assert hash(again) == hash(one)


def test_whole_numbers_and_floats_of_one_value_are_one_release() -> None:
    assert Release("gaussian", 1, 1) == Release(Mechanism.GAUSSIAN, 1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(0), "sampling.q 0"),
        (lambda: Poisson(1.5), "sampling.q 1.5"),
        (lambda: Poisson(0.1, cap=5), "cap without `population`"),
        (lambda: Poisson(0.1, cap=0, population=9), "sampling.cap 0"),
        (lambda: WithoutReplacement(11, 10), "sampling.cohort 11"),
        (lambda: MinSeparation(0, 1), "sampling.separation 0"),
        (lambda: MinSeparation(1, 0), "sampling.participations 0"),
        (lambda: Release("gaussian", -1.0, 1.0), "sigma -1.0"),
        (lambda: Release("gaussian", 1.0, 0.0), "sensitivity 0.0"),
        (lambda: Release("gaussian", math.nan, 1.0), "sigma nan"),
        (lambda: Release("gaussian", 1.0, 1.0, addends=0), "addends 0"),
        (lambda: sampling_of({"kind": "poisson", "p": 1}), "sampling poisson"),
        (lambda: sampling_of({"kind": "poisson"}), "sampling poisson"),
        (lambda: release_of({"kind": "gaussian"}), "no release"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_word_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="poisson"):
        sampling_of({"kind": "poison"})
    with pytest.raises(UnknownName, match="gaussian"):
        Release("gausian", 1.0, 1.0)


def test_noise_without_a_clip_is_refused() -> None:
    with pytest.raises(PlanError, match="noise without a clip"):
        Release(Mechanism.GAUSSIAN, 1.0, math.inf)


def test_skellam_noise_without_an_l1_norm_is_refused() -> None:
    with pytest.raises(PlanError, match="L1"):
        Release(Mechanism.SKELLAM, 1.0, 1.0)


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, math.inf, "4", True])
def test_an_epsilon_of_nothing_is_refused(epsilon) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon"):
        check_epsilon(epsilon)


@pytest.mark.parametrize("delta", [0, 1, 1.5, -0.1, math.nan])
def test_a_delta_of_one_or_more_is_refused(delta) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.delta"):
        check_delta(delta)


def test_a_delta_above_one_over_n_warns() -> None:
    assert delta_warning(1e-5, 100_000) is None
    assert "1/1000" in (delta_warning(0.0011, 1000) or "")


def test_an_epsilon_says_all_that_it_depends_on() -> None:
    found = Epsilon(2.5, 1e-5, PrivacyUnit.USER, Relation.REPLACE, "pld")
    assert str(found) == "epsilon 2.5 at delta 1e-05 (user, replace)"
    assert found.as_json() == {
        "epsilon": 2.5,
        "delta": 1e-5,
        "unit": "user",
        "relation": "replace",
        "accountant": "pld",
    }
    endless = Epsilon(math.inf, 1e-5, PrivacyUnit.USER, Relation.REPLACE, "rdp")
    assert endless.as_json()["epsilon"] is None
