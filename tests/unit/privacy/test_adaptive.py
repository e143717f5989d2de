"""The adaptive clip finds its quantile from both sides, and its fraction is a release."""

from __future__ import annotations

import math

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.crypto.secret import Secret
from choral.privacy.adaptive import AdaptiveClip, noised_fraction
from choral.privacy.vocabulary import Poisson


def seed(number: int) -> Secret:
    return Secret(number.to_bytes(32, "little"))


@pytest.mark.parametrize("start", [0.1, 10.0])
@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_it_ends_at_its_quantile_from_both_sides(start: float, quantile: float) -> None:
    rng = np.random.default_rng(8)
    everyone = rng.lognormal(0.0, 0.5, 10_000)
    clip = AdaptiveClip(bound=start * float(np.median(everyone)), sigma=5.0, quantile=quantile)
    for number in range(60):
        norms = rng.choice(everyone, 100, replace=False)
        unclipped = int((norms <= clip.bound).sum())
        clip = clip.step(
            noised_fraction(unclipped, 100, expected=100.0, sigma=clip.sigma, seed=seed(number))
        )
    assert abs((everyone <= clip.bound).mean() - quantile) <= 0.1


def test_the_step_goes_down_where_more_than_the_target_are_unclipped() -> None:
    clip = AdaptiveClip(bound=2.0, sigma=1.0, quantile=0.5)
    assert clip.step(1.0).bound == pytest.approx(2.0 * math.exp(-0.1))
    assert clip.step(0.0).bound == pytest.approx(2.0 * math.exp(0.1))
    assert clip.step(0.5).bound == 2.0
    assert clip.step(40.0).bound == clip.step(1.0).bound, "a noised fraction may be above 1"


def test_a_bound_stays_within_its_limits() -> None:
    clip = AdaptiveClip(bound=1.0, sigma=1.0, least=0.95, most=1.05)
    assert clip.step(0.0).bound == 1.05
    assert clip.step(1.0).bound == 0.95


def test_the_indicator_is_a_release_too() -> None:
    one = AdaptiveClip(bound=1.0, sigma=5.0).release(Poisson(0.01))
    assert (one.sigma, one.sensitivity, one.sampling) == (5.0, 0.5, Poisson(0.01))


def test_the_fraction_has_its_noise_over_the_expected_cohort() -> None:
    draws = [
        noised_fraction(60, 90, expected=100.0, sigma=4.0, seed=seed(i)) for i in range(1, 500)
    ]
    assert np.mean(draws) == pytest.approx(0.5 + 15 / 100, abs=0.008)
    assert np.std(draws) == pytest.approx(0.04, rel=0.15)


@pytest.mark.parametrize(
    "fields",
    [{"bound": 0}, {"bound": 1e9}, {"quantile": 1}, {"quantile": 0}, {"rate": 0}, {"sigma": 0}],
)
def test_terms_out_of_range_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match="adaptive"):
        AdaptiveClip(**{"bound": 1.0, "sigma": 1.0} | fields)
    with pytest.raises(ConfigError, match="unclipped"):
        noised_fraction(3, 2, expected=1.0, sigma=1.0, seed=seed(1))
