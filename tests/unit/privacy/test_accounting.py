"""Epsilon against dp-accounting and Opacus used directly, and each accountant's conventions."""

from __future__ import annotations

import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting import pld, rdp
from scipy import optimize, special, stats

from choral.core.errors import ConfigError, PlanError
from choral.privacy.accounting import cap_tail, epsilon_of, noise_multiplier_for, slack
from choral.privacy.adapters import (
    ORDERS,
    divergence_tradeoff,
    release_divergence,
    total_divergence,
)
from choral.privacy.noise import DISTANCE
from choral.privacy.renyi import gaussian_sum_rho, skellam_divergence
from choral.privacy.vocabulary import (
    Mechanism,
    MinSeparation,
    NoSampling,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    WithoutReplacement,
)

ADD, REPLACE, ZERO = Relation.ADD_REMOVE, Relation.REPLACE, Relation.ZERO_OUT
NEIGHBOURS = {
    ADD: dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
    REPLACE: dp.NeighboringRelation.REPLACE_ONE,
    ZERO: dp.NeighboringRelation.REPLACE_SPECIAL,
}
DELTA = 1e-5
nightly = pytest.mark.nightly


def gaussian(z: float, sampling=None) -> Release:
    return Release(Mechanism.GAUSSIAN, z, 1.0, sampling or NoSampling())


def ours(release: Release, count: int, relation: Relation, accountant: str) -> float:
    return epsilon_of({release: count}, delta=DELTA, relation=relation, accountant=accountant).value


def event_of(z: float, sampling) -> dp.DpEvent:
    """What a user of dp-accounting would write; `z` in the accountant's own convention."""
    event = dp.GaussianDpEvent(z)
    if isinstance(sampling, Poisson):
        return dp.PoissonSampledDpEvent(sampling.q, event)
    if isinstance(sampling, WithoutReplacement):
        return dp.SampledWithoutReplacementDpEvent(sampling.population, sampling.cohort, event)
    return event


def by_pld(z: float, sampling, count: int, relation: Relation) -> float:
    accountant = pld.PLDAccountant(NEIGHBOURS[relation])
    return accountant.compose(event_of(z, sampling), count).get_epsilon(DELTA)


def by_rdp(z: float, sampling, count: int, relation: Relation) -> float:
    accountant = rdp.RdpAccountant(list(ORDERS), NEIGHBOURS[relation])
    far = z / 2 if relation is REPLACE else z
    return accountant.compose(event_of(far, sampling), count).get_epsilon(DELTA)


EXACT = [
    (z, count, relation)
    for z in (0.8, 2.0, 20.0)
    for count in (1, 50)
    for relation in (ADD, REPLACE, ZERO)
]
BY_RDP = [
    *[(z, Poisson(q), n, r) for z, q, n in ((1.0, 0.01, 1000), (0.7, 0.001, 5000), (1.5, 0.1, 200))
      for r in (ADD, ZERO)],
    *[(z, NoSampling(), n, r) for z, n in ((2.0, 1), (10.0, 100)) for r in (ADD, REPLACE, ZERO)],
    *[(z, WithoutReplacement(c, 1000), n, REPLACE) for z, c, n in ((2.0, 10, 100), (4.0, 100, 20))],
]  # fmt: skip
BY_PLD = [
    *[(z, Poisson(q), n, r) for z, q, n in ((1.0, 0.01, 1000), (2.0, 0.1, 200), (1.1, 0.05, 30))
      for r in (ADD, REPLACE, ZERO)],
    (0.62, Poisson(1e-3), 1500, ADD),
    (4.0, NoSampling(), 3, ADD),
    (4.0, NoSampling(), 3, REPLACE),
]  # fmt: skip
QUICK_PLD = [
    pytest.param(*case, marks=() if i in (4, 11) else nightly) for i, case in enumerate(BY_PLD)
]


def test_the_table_has_at_least_forty_cases() -> None:
    assert len(EXACT) + len(BY_RDP) + len(BY_PLD) >= 40


@pytest.mark.parametrize(("z", "count", "relation"), EXACT)
def test_gaussians_without_sampling_are_exact(z: float, count: int, relation: Relation) -> None:
    found = epsilon_of({gaussian(z): count}, delta=DELTA, relation=relation)
    far = z / math.sqrt(count) / (2 if relation is REPLACE else 1)
    assert found.accountant == "gaussian"
    phi = stats.norm.logcdf

    def spent(epsilon: float) -> float:
        a, b = 1 / (2 * far), epsilon * far
        return float(np.exp(phi(a - b)) - np.exp(epsilon + phi(-a - b)))

    root = optimize.brentq(lambda e: spent(e) - DELTA, 0.0, 500.0, xtol=1e-10)
    assert found.value == pytest.approx(root, abs=1e-6)


def test_the_exact_formula_solves_its_equation_and_the_classical_one_is_not_used() -> None:
    found = epsilon_of([gaussian(1.3)], delta=DELTA, relation=ADD).value
    phi, a, b = stats.norm.cdf, 1 / (2 * 1.3), found * 1.3
    assert phi(a - b) - math.exp(found) * phi(-a - b) == pytest.approx(DELTA, rel=1e-6)
    assert found < math.sqrt(2 * math.log(1.25 / DELTA)) / 1.3


@pytest.mark.parametrize(("z", "sampling", "count", "relation"), BY_RDP)
def test_by_renyi_as_dp_accounting_itself(z, sampling, count, relation) -> None:
    mine = ours(gaussian(z, sampling), count, relation, "rdp")
    assert mine == pytest.approx(by_rdp(z, sampling, count, relation), abs=1e-6)


@pytest.mark.parametrize(("z", "sampling", "count", "relation"), QUICK_PLD)
def test_by_privacy_loss_as_dp_accounting_itself(z, sampling, count, relation) -> None:
    mine = ours(gaussian(z, sampling), count, relation, "pld")
    assert mine == pytest.approx(by_pld(z, sampling, count, relation), abs=1e-6)


@nightly
@pytest.mark.parametrize(
    ("z", "q", "count"), [(1.0, 0.01, 1000), (0.7, 0.001, 5000), (1.5, 0.1, 200), (3.0, 0.02, 50)]
)
def test_by_renyi_as_opacus(z: float, q: float, count: int) -> None:
    from opacus.accountants import RDPAccountant

    orders = [a for a in ORDERS if float(a).is_integer()]
    theirs = RDPAccountant()
    theirs.history = [(z, q, count)]
    divergence = total_divergence({gaussian(z, Poisson(q)): count}, ADD, orders)
    mine = divergence_tradeoff(divergence, orders)(DELTA)
    assert mine == pytest.approx(theirs.get_epsilon(DELTA, alphas=orders), abs=1e-6)
    # Between whole orders dp-accounting rounds up, so that all orders give no less than theirs.
    exact = theirs.get_epsilon(DELTA, alphas=list(ORDERS))
    assert exact - 1e-9 <= ours(gaussian(z, Poisson(q)), count, ADD, "rdp") < exact + 0.01


@nightly
@pytest.mark.parametrize(("z", "q", "count"), [(1.0, 0.01, 1000), (2.0, 0.1, 200)])
def test_by_privacy_loss_as_opacus_within_its_own_error(z: float, q: float, count: int) -> None:
    from opacus.accountants import PRVAccountant

    theirs = PRVAccountant()
    theirs.history = [(z, q, count)]
    mine = ours(gaussian(z, Poisson(q)), count, ADD, "pld")
    assert mine == pytest.approx(theirs.get_epsilon(DELTA, eps_error=0.005), abs=0.01)


# --- traps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_the_conventions_of_two_accountants_under_two_relations(relation, accountant) -> None:
    """For REPLACE_ONE, PLD doubles the sensitivity itself and RDP does not.

    The truth is the exact formula with the distance of two neighbouring sums: 1 or 2.
    """
    z, far = 6.0, 2.0 if relation is REPLACE else 1.0
    truth = dp.get_epsilon_gaussian(z / far, DELTA)
    mine = ours(gaussian(z), 1, relation, accountant)
    assert truth <= mine + 1e-4
    assert mine == pytest.approx(truth, abs=2e-3 if accountant == "pld" else 0.12 * truth)
    theirs = (
        pld.PLDAccountant(NEIGHBOURS[relation])
        if accountant == "pld"
        else (rdp.RdpAccountant(list(ORDERS), NEIGHBOURS[relation]))
    )
    raw = theirs.compose(dp.GaussianDpEvent(z)).get_epsilon(DELTA)
    if relation is REPLACE and accountant == "rdp":
        assert raw < 0.6 * truth, "used as it is, it would under-report"
    else:
        assert raw == pytest.approx(mine, abs=1e-6)


def test_a_fixed_size_cohort_is_not_poisson() -> None:
    fixed = gaussian(2.0, WithoutReplacement(10, 1000))
    for relation in (ADD, ZERO):
        with pytest.raises(PlanError, match="amplifies nothing"):
            epsilon_of([fixed], delta=DELTA, relation=relation)
    poisson = ours(gaussian(2.0, Poisson(0.01)), 50, ADD, "rdp")
    assert ours(fixed, 50, REPLACE, "rdp") > 1.5 * poisson


@nightly
def test_a_cap_at_one_and_a_half_times_the_mean_is_cheap_at_50_and_not_at_5() -> None:
    """And a cap at the mean is ruinous."""

    def loss(mean: int, cap: int | None) -> float:
        sampling = Poisson(mean / 10_000, cap=cap, population=10_000)
        return ours(gaussian(1.0, sampling), 100, ADD, "pld")

    free = {mean: loss(mean, None) for mean in (5, 50)}
    assert 0 < loss(50, 75) - free[50] < 0.2
    assert loss(50, 100) == pytest.approx(free[50], abs=1e-4)
    assert loss(5, 8) > 10 * free[5]
    assert loss(50, 50) > 10 * free[50]
    event = dp.TruncatedSubsampledGaussianDpEvent(10_000, 50 / 10_000, 75, 1.0)
    assert loss(50, 75) == pytest.approx(
        pld.PLDAccountant().compose(event, 100).get_epsilon(DELTA), abs=1e-6
    )


def test_by_renyi_the_tail_of_a_cap_goes_into_delta() -> None:
    free = gaussian(1.0, Poisson(0.005))
    wide = gaussian(1.0, Poisson(0.005, cap=100, population=10_000))
    narrow = gaussian(1.0, Poisson(0.005, cap=75, population=10_000))
    a, b, c = (ours(r, 20, ADD, "rdp") for r in (free, wide, narrow))
    assert a < b < a + 1e-3
    assert c == math.inf, "the tail of 20 rounds alone is above delta"


def test_the_tail_of_a_cap_is_that_of_the_binomial() -> None:
    sampling = Poisson(0.05, cap=75, population=1000)
    expected = sum(stats.binom.pmf(k, 1001, 0.05) for k in range(76, 300))
    assert cap_tail(sampling) == pytest.approx(expected, rel=1e-9)
    assert cap_tail(Poisson(0.05)) == 0 == cap_tail(NoSampling())


def test_what_integer_noise_is_off_by_is_charged_to_delta() -> None:
    one = Release(Mechanism.DISCRETE_GAUSSIAN, 3.0, 1.0, dimension=10**6)
    assert slack({one: 1000}, caps=True) == pytest.approx(1000 * 10**6 * DISTANCE)
    free = Release(Mechanism.DISCRETE_GAUSSIAN, 3.0, 1.0)
    a, b = (epsilon_of([r], delta=1e-9, relation=ADD).value for r in (one, free))
    assert b < a < b + 1e-3
    assert epsilon_of({one: 10**6}, delta=1e-9, relation=ADD).value == math.inf


@pytest.mark.parametrize("accountant", ["gdp", "clt"])
def test_the_accountant_that_under_reports_is_forbidden(accountant: str) -> None:
    with pytest.raises(PlanError, match="under-reports"):
        epsilon_of([gaussian(1.0)], delta=DELTA, relation=ADD, accountant=accountant)


@pytest.mark.parametrize(
    ("release", "relation", "accountant"),
    [
        (gaussian(1.0, Poisson(0.1)), REPLACE, "rdp"),
        (gaussian(1.0, WithoutReplacement(1, 9)), REPLACE, "pld"),
        (gaussian(1.0, Poisson(0.1)), ADD, "gaussian"),
        (gaussian(1.0), ADD, "moments"),
        (Release("skellam", 9.0, 1.0, Poisson(0.1), l1=1.0), ADD, "rdp"),
        (Release("skellam", 9.0, 1.0, l1=1.0), ADD, "pld"),
        (Release("discrete_gaussian", 9.0, 1.0, WithoutReplacement(1, 9)), REPLACE, "auto"),
        (Release("discrete_gaussian", 9.0, 1.0, addends=3), ADD, "auto"),
    ],
)
def test_what_no_accountant_covers_is_refused(release, relation, accountant) -> None:
    with pytest.raises(PlanError):
        epsilon_of([release], delta=DELTA, relation=relation, accountant=accountant)


@pytest.mark.parametrize("delta", [0, 1, 2.0])
def test_a_delta_of_one_is_an_error(delta) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon_of([gaussian(1.0)], delta=delta, relation=ADD)


def test_no_noise_is_an_infinite_epsilon_and_nothing_is_none() -> None:
    for accountant in ("gaussian", "pld", "rdp"):
        assert ours(gaussian(0.0), 1, ADD, accountant) == math.inf
        nothing = epsilon_of([], delta=DELTA, relation=ADD, accountant=accountant)
        assert nothing.value == 0


# --- composition ----------------------------------------------------------------------------------


def test_rounds_runs_and_mechanisms_compose_in_any_order() -> None:
    a, b = gaussian(3.0), Release("skellam", 400.0, 90.0, l1=900.0)
    c = Release("discrete_gaussian", 5.0, 1.0)
    one = epsilon_of([a, b, c, a], delta=DELTA, relation=REPLACE, unit=PrivacyUnit.RECORD)
    assert one == epsilon_of({c: 1, a: 2, b: 1}, delta=DELTA, relation=REPLACE, unit="record")
    assert (one.accountant, one.unit, one.relation) == ("rdp", "record", REPLACE)
    parts = [epsilon_of([r], delta=DELTA, relation=REPLACE).value for r in (a, b, c)]
    assert max(parts) < one.value < 2 * parts[0] + parts[1] + parts[2]


def test_participations_at_least_b_apart_are_one_gaussian_with_less_noise() -> None:
    found = epsilon_of([gaussian(4.0, MinSeparation(10, 4))], delta=DELTA, relation=ADD)
    assert found.value == epsilon_of([gaussian(2.0)], delta=DELTA, relation=ADD).value
    loose = epsilon_of([gaussian(4.0, MinSeparation(10, 4))], delta=DELTA, relation=ADD,
                       accountant="rdp").value  # fmt: skip
    assert found.value <= loose < 1.2 * found.value


# --- Skellam and sums of discrete Gaussians -------------------------------------------------------


def skellam_numerically(order: int, variance: float, shift: int) -> float:
    """The divergence of one coordinate, from the probabilities themselves."""
    k = np.arange(-int(40 * math.sqrt(variance)) - 50, int(40 * math.sqrt(variance)) + 51)
    with np.errstate(divide="ignore"):
        p = np.log(special.ive(np.abs(k), variance))
        q = np.log(special.ive(np.abs(k - shift), variance))
    seen = np.isfinite(p) & np.isfinite(q)
    terms = order * p[seen] - (order - 1) * q[seen]
    return float(special.logsumexp(terms) / (order - 1))


@pytest.mark.parametrize("order", [2, 3, 5, 8, 16])
@pytest.mark.parametrize(("variance", "shift"), [(2500.0, 3), (10_000.0, 10), (400.0, 1)])
def test_skellam_divergence_bounds_the_numeric_one_within_a_percent(order, variance, shift) -> None:
    bound = skellam_divergence([order], variance=variance, l2=shift, l1=shift)[0]
    truth = skellam_numerically(order, variance, shift)
    assert truth <= bound * (1 + 1e-9)
    assert bound <= 1.01 * truth


def test_with_little_skellam_noise_the_bound_is_loose_and_still_a_bound() -> None:
    for order in (2, 4, 8):
        bound = skellam_divergence([order], variance=4.0, l2=1.0, l1=1.0)[0]
        truth = skellam_numerically(order, 4.0, 1)
        assert truth <= bound < 2 * truth


def test_skellam_divergence_between_whole_orders_is_that_of_the_next_whole_one() -> None:
    """It is proven for whole orders, and divergences grow with their order."""
    found = dict(
        zip(ORDERS, release_divergence(Release("skellam", 9.0, 1.0, l1=1.0), ADD), strict=True)
    )
    for order, value in found.items():
        assert value == skellam_divergence([math.ceil(order)], variance=81.0, l2=1.0, l1=1.0)[0]
    assert found[2] < found[2.25] == found[2.75] == found[3]


def test_a_discrete_gaussian_costs_what_a_gaussian_does() -> None:
    one = release_divergence(Release("discrete_gaussian", 3.0, 1.5), REPLACE)
    np.testing.assert_allclose(one, np.array(ORDERS) / 2.0, rtol=1e-12)


def test_a_sum_of_discrete_gaussians_costs_hardly_more_from_two_units_each_on() -> None:
    one = 0.5 / 400
    assert gaussian_sum_rho(addends=100, sigma=20.0, l2=1.0, dimension=10**6) == pytest.approx(
        one, rel=1e-4
    )
    assert gaussian_sum_rho(addends=100, sigma=5.0, l2=1.0, dimension=10**6) > 100 * one


# --- calibration ----------------------------------------------------------------------------------


@nightly
def test_a_published_calibration_is_found_again() -> None:
    z = noise_multiplier_for(epsilon=2, delta=1e-6, rounds=1500, sampling=Poisson(1e-3))
    assert z == pytest.approx(0.62, abs=0.01)
    one = {gaussian(z, Poisson(1e-3)): 1500}
    assert 1.98 < epsilon_of(one, delta=1e-6, relation=ADD).value <= 2.0


@pytest.mark.parametrize(
    ("epsilon", "rounds", "relation"), [(2.0, 1, ADD), (0.1, 30, REPLACE), (30.0, 2, ZERO)]
)
def test_calibration_is_the_inverse_of_accounting(epsilon, rounds, relation) -> None:
    z = noise_multiplier_for(
        epsilon=epsilon, delta=DELTA, rounds=rounds, sampling=NoSampling(), relation=relation
    )
    assert ours(gaussian(z), rounds, relation, "auto") <= epsilon
    assert ours(gaussian(z / 1.002), rounds, relation, "auto") > epsilon


@nightly
def test_calibration_of_a_fixed_size_cohort() -> None:
    sampling = WithoutReplacement(10, 1000)
    z = noise_multiplier_for(epsilon=3, delta=DELTA, rounds=20, sampling=sampling, relation=REPLACE)
    assert 2.9 < ours(gaussian(z, sampling), 20, REPLACE, "rdp") <= 3


def test_a_cap_that_alone_costs_too_much_cannot_be_calibrated() -> None:
    with pytest.raises(PlanError, match="no noise"):
        noise_multiplier_for(
            epsilon=1,
            delta=1e-6,
            rounds=10,
            sampling=Poisson(0.05, cap=50, population=1000),
            accountant="rdp",
        )


def test_a_numeric_root_agrees_with_the_calibration() -> None:
    z = noise_multiplier_for(epsilon=1.0, delta=DELTA, rounds=1, sampling=NoSampling())
    root = optimize.brentq(lambda s: dp.get_epsilon_gaussian(s, DELTA) - 1.0, 1.0, 10.0)
    assert root <= z <= 1.001 * root
