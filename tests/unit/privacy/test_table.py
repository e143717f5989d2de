"""Epsilon of every mode, sampling, relation and horizon against references that are not ours.

Each reference is worked out here from the mechanism itself: the trade-off of the Gaussian solved
for its root, the closed form of one sampled Gaussian, the binomial sum of a sampled Gaussian's
divergence, or the published bounds of integer noise. None of them calls an accountant, but the two
that are named so: dp-accounting's event of a cohort without replacement, and Opacus.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, special, stats

from choral.core.plan import Local
from choral.privacy.accounting import epsilon_of
from choral.privacy.adapters import ORDERS, divergence_tradeoff, total_divergence
from choral.privacy.adaptive import AdaptiveClip
from choral.privacy.central import Central
from choral.privacy.distributed import Distributed
from choral.privacy.record import record_epsilon, record_releases
from choral.privacy.vocabulary import (
    Mechanism,
    MinSeparation,
    NoSampling,
    Poisson,
    Relation,
    Release,
    WithoutReplacement,
)

ADD, REPLACE, ZERO = Relation.ADD_REMOVE, Relation.REPLACE, Relation.ZERO_OUT
WHOLE = [a for a in ORDERS if float(a).is_integer()]
nightly = pytest.mark.nightly


# --- references -----------------------------------------------------------------------------------


def root(spent: Callable[[float], float], delta: float, off: float = 0.0) -> float:
    """The epsilon at which a decreasing function from epsilon to delta reaches `delta`.

    What runs is `off` from what the function describes, which costs (1 + e^epsilon) * off.
    """

    def above(epsilon: float) -> float:
        return spent(epsilon) + (1 + math.exp(epsilon)) * off - delta

    high = 1.0
    while above(high) > 0:
        high *= 1.5
    return float(optimize.brentq(above, 0.0, high, xtol=1e-10))


def gaussian_reference(z: float, delta: float, off: float = 0.0) -> float:
    """Of one Gaussian of noise multiplier z: Phi(a - b) - e^epsilon Phi(-a - b) = delta."""

    def spent(epsilon: float) -> float:
        a, b = 1 / (2 * z), epsilon * z
        second = epsilon + stats.norm.logcdf(-a - b)
        return float(stats.norm.cdf(a - b) - math.exp(min(second, 50.0)))

    return root(spent, delta, off)


def sampled_reference(z: float, q: float, delta: float) -> float:
    """Of one Gaussian whose unit takes part with probability q, the worse of both directions."""
    tail = stats.norm.sf

    def removed(epsilon: float) -> float:
        at = 0.5 + z**2 * math.log((math.exp(epsilon) - 1 + q) / q)
        return float(
            (1 - q) * tail(at / z) + q * tail((at - 1) / z) - math.exp(epsilon) * tail(at / z)
        )

    def added(epsilon: float) -> float:
        inside = math.exp(-epsilon) - 1 + q
        if inside <= 0:
            return 0.0
        at = 0.5 + z**2 * math.log(inside / q)
        mixed = (1 - q) * stats.norm.cdf(at / z) + q * stats.norm.cdf((at - 1) / z)
        return float(stats.norm.cdf(at / z) - math.exp(epsilon) * mixed)

    return root(lambda e: max(removed(e), added(e)), delta)


def converted(
    divergence: Callable[[float], float], orders: list[float], delta: float, off: float = 0.0
) -> float:
    """From a Rényi divergence to epsilon (arXiv 2004.00010, proposition 12), order by order."""

    def at(left: float) -> float:
        return min(
            divergence(a) + math.log1p(-1 / a) - (math.log(left) + math.log(a)) / (a - 1)
            for a in orders
        )

    found = at(delta)
    for _ in range(50 if off else 0):
        found = at(delta - (1 + math.exp(found)) * off)
    return found


def off_by(release: Release, count: int) -> float:
    """How far integer noise is from its distribution: 2^-64 a draw and coordinate."""
    return count * release.dimension * release.addends * 2.0**-64


def sampled_divergence(z: float, q: float) -> Callable[[float], float]:
    """At whole orders (Mironov, Talwar, Zhang 2019, arXiv 1908.10530): a binomial sum."""

    def at(order: float) -> float:
        k = np.arange(order + 1)
        terms = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        terms = terms + k * math.log(q) + (order - k) * math.log1p(-q) + k * (k - 1) / (2 * z**2)
        return float(special.logsumexp(terms) / (order - 1))

    return at


def skellam_bound(variance: float, l2: float, l1: float) -> Callable[[float], float]:
    def at(a: float) -> float:
        near = ((2 * a - 1) * l2**2 + 6 * l1) / (4 * variance**2)
        return a * l2**2 / (2 * variance) + min(near, 3 * l1 / (2 * variance))

    return at


def discrete_sum_bound(terms: Distributed, far: float) -> Callable[[float], float]:
    """zCDP of a sum of discrete Gaussians: what it is off a single one, both ways of adding."""
    n, d, one = terms.honest, terms.size, terms.client_variance
    t = 10 * sum(math.exp(-2 * math.pi**2 * one * k / (k + 1)) for k in range(1, n))
    rough = far**2 / (n * one)
    rho = min(math.sqrt(rough + t * d / 2), math.sqrt(rough) + t * math.sqrt(d)) ** 2 / 2
    return lambda a: a * rho


# --- central --------------------------------------------------------------------------------------


def central(z: float, sampling=None, dimension: int = 1000) -> Central:
    step = Central.step_of(Central.grid_for(1.0))
    return Central(1.0, z, 10.0, dimension, step, sampling or NoSampling())


CENTRAL = [
    (z, count, relation, delta)
    for z, count, delta in ((0.7, 1, 1e-5), (9.0, 30, 1e-6), (40.0, 1000, 1e-5))
    for relation in (ADD, REPLACE, ZERO)
]


@pytest.mark.parametrize(("z", "count", "relation", "delta"), CENTRAL)
def test_central_noise_without_sampling(z, count, relation, delta) -> None:
    found = epsilon_of({central(z).release: count}, delta=delta, relation=relation)
    far = 2.0 if relation is REPLACE else 1.0
    one = central(z).release
    truth = gaussian_reference(z / far / math.sqrt(count), delta, off_by(one, count))
    assert found.value == pytest.approx(truth, abs=1e-6)
    assert found.value >= truth - 1e-8


SAMPLED = [(4.0, 0.05), (1.0, 0.01), (0.6, 0.2), (2.0, 0.5)]


@pytest.mark.parametrize(
    ("z", "q"), [pytest.param(*case, marks=nightly if i else ()) for i, case in enumerate(SAMPLED)]
)
def test_central_noise_in_one_poisson_cohort_is_never_below_its_closed_form(z, q) -> None:
    """A privacy loss distribution is on a grid and rounds up, by less than two of its steps."""
    found = epsilon_of({central(z, Poisson(q)).release: 1}, delta=1e-5, relation=ADD)
    assert found.accountant == "pld"
    truth = sampled_reference(z, q, 1e-5)
    assert truth - 1e-9 <= found.value <= truth + 2e-4


BY_ORDERS = [
    (z, q, count, relation, delta)
    for z, q, count, delta in ((0.8, 0.01, 1, 1e-5), (1.1, 0.02, 500, 1e-6), (2.0, 0.2, 3000, 1e-5))
    for relation in (ADD, ZERO)
]


@pytest.mark.parametrize(("z", "q", "count", "relation", "delta"), BY_ORDERS)
def test_central_noise_in_poisson_cohorts_at_whole_orders(z, q, count, relation, delta) -> None:
    release = central(z, Poisson(q)).release
    divergence = total_divergence({release: count}, relation, WHOLE)
    one = sampled_divergence(release.multiplier, q)
    truth = converted(lambda a: count * one(a), WHOLE, delta)
    assert divergence_tradeoff(divergence, WHOLE)(delta) == pytest.approx(truth, abs=1e-6)


@nightly
@pytest.mark.parametrize(("z", "cohort", "count"), [(2.0, 10, 1), (3.0, 50, 100), (6.0, 10, 2000)])
def test_central_noise_in_cohorts_of_a_fixed_size_as_dp_accounting_itself(z, cohort, count) -> None:
    import dp_accounting as dp
    from dp_accounting import rdp

    release = central(z, WithoutReplacement(cohort, 1000)).release
    found = epsilon_of({release: count}, delta=1e-5, relation=REPLACE)
    far = dp.GaussianDpEvent(release.multiplier / 2)  # two updates are twice the bound apart
    event = dp.SampledWithoutReplacementDpEvent(1000, cohort, far)
    theirs = rdp.RdpAccountant(list(ORDERS), dp.NeighboringRelation.REPLACE_ONE)
    assert found.value == pytest.approx(theirs.compose(event, count).get_epsilon(1e-5), abs=1e-6)


@pytest.mark.parametrize("relation", [ADD, REPLACE, ZERO])
def test_an_adaptive_clip_costs_its_indicator_beside_the_model(relation) -> None:
    model, indicator = central(6.0).release, AdaptiveClip(1.0, sigma=15.0).release()
    found = epsilon_of({model: 20, indicator: 20}, delta=1e-5, relation=relation)
    together = (20 * (1 / 6.0**2 + 0.5**2 / 15.0**2)) ** -0.5
    far = 2.0 if relation is REPLACE else 1.0
    truth = gaussian_reference(together / far, 1e-5, off_by(model, 20) + off_by(indicator, 20))
    assert found.value == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(("k", "relation"), [(1, ADD), (4, REPLACE), (9, ZERO)])
def test_participations_that_are_apart_are_one_gaussian(k, relation) -> None:
    one = Release(Mechanism.GAUSSIAN, 8.0, 1.0, MinSeparation(5, k))
    found = epsilon_of([one], delta=1e-5, relation=relation)
    far = 2.0 if relation is REPLACE else 1.0
    truth = gaussian_reference(8.0 / far / math.sqrt(k), 1e-5)
    assert found.value == pytest.approx(truth, abs=1e-6)


# --- record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("records", "batch", "steps"), [(1000, 10, 1), (500, 25, 400)])
def test_record_noise_at_whole_orders(records, batch, steps) -> None:
    counts = record_releases(records, batch, steps, 1.1)
    one = sampled_divergence(1.1, batch / records)
    truth = converted(lambda a: steps * one(a), WHOLE, 1e-5)
    found = divergence_tradeoff(total_divergence(counts, ADD, WHOLE), WHOLE)(1e-5)
    assert found == pytest.approx(truth, abs=1e-6)


@nightly
@pytest.mark.parametrize(("records", "batch", "rounds"), [(1000, 10, 5), (2000, 100, 20)])
def test_record_noise_is_never_below_what_opacus_says_at_its_lower_end(
    records, batch, rounds
) -> None:
    from opacus.accountants import PRVAccountant

    local = Local(batch_size=batch, record={"max_grad_norm": 1.0, "noise_multiplier": 1.1})
    found = record_epsilon(local, records, rounds, delta=1e-5).value
    theirs = PRVAccountant()
    theirs.history = [(1.1, batch / records, rounds * records // batch)]
    assert found == pytest.approx(theirs.get_epsilon(1e-5, eps_error=0.005), abs=0.01)


# --- distributed ----------------------------------------------------------------------------------


def distributed(mechanism: str, scale: float) -> Distributed:
    return Distributed(
        bound=1.0, scale=scale, variance=4e8, dimension=500, cohort=40, survivors=30,
        corrupt=5, ring_bits=32, mechanism=mechanism,
    )  # fmt: skip


DISTRIBUTED = [
    (mechanism, scale, count, relation)
    for mechanism in ("skellam", "discrete_gaussian")
    for scale, count in ((8000.0, 1), (2000.0, 40), (400.0, 1000))
    for relation in (REPLACE, ZERO)
]


@pytest.mark.parametrize(("mechanism", "scale", "count", "relation"), DISTRIBUTED)
def test_distributed_noise(mechanism, scale, count, relation) -> None:
    """At the noise of the honest alone, and the norms of what rounding leaves."""
    terms = distributed(mechanism, scale)
    found = epsilon_of({terms.release: count}, delta=1e-5, relation=relation)
    c, d = scale, 512
    norm = min(c + math.sqrt(d), math.sqrt(c**2 + d / 4 + c + math.sqrt(d) / 2))
    far = 2.0 if relation is REPLACE else 1.0
    if mechanism == "skellam":
        l1 = far * min(math.sqrt(d) * norm, norm**2)
        bound = skellam_bound(4e8, far * norm, l1)
    else:
        bound = discrete_sum_bound(terms, far * norm)
    orders = WHOLE if mechanism == "skellam" else list(ORDERS)
    off = off_by(terms.release, count)
    truth = converted(lambda a: count * bound(a), orders, 1e-5, off)
    assert found.accountant == "rdp"
    assert found.value == pytest.approx(truth, abs=1e-6)
    honest_alone = terms.client_variance * (terms.survivors - terms.corrupt)
    assert terms.release.sigma**2 == pytest.approx(honest_alone)


def numeric_divergence(order: int, variance: float, shift: int) -> float:
    """Of Skellam noise in one coordinate, from its probabilities."""
    reach = int(40 * math.sqrt(variance)) + 50
    k = np.arange(-reach, reach + 1)
    with np.errstate(divide="ignore"):
        p, q = (np.log(special.ive(np.abs(k - s), variance)) for s in (0, shift))
    seen = np.isfinite(p) & np.isfinite(q)
    return float(special.logsumexp(order * p[seen] - (order - 1) * q[seen]) / (order - 1))


@pytest.mark.parametrize("relation", [REPLACE, ZERO])
@pytest.mark.parametrize("order", [2, 4, 16, 63])
def test_the_divergence_of_a_skellam_release_is_within_a_percent_of_the_numeric_one(
    order, relation
) -> None:
    """As the ledger sees it: doubled norms under `replace`, and never below the truth."""
    shift = 6
    release = Release("skellam", 100.0, float(shift), l1=float(shift))
    found = total_divergence({release: 1}, relation, [order])[0]
    truth = numeric_divergence(order, 1e4, 2 * shift if relation is REPLACE else shift)
    assert truth * (1 - 1e-9) <= found <= 1.01 * truth


# --- what the table covers ------------------------------------------------------------------------


def test_the_table_covers_modes_relations_and_horizons() -> None:
    assert len(CENTRAL) + len(SAMPLED) + len(BY_ORDERS) + len(DISTRIBUTED) + 3 + 3 + 3 + 2 >= 40
    assert {r for _, _, r, _ in CENTRAL} == {ADD, REPLACE, ZERO}
    assert {r for *_, r in DISTRIBUTED} == {REPLACE, ZERO}  # `add_remove` is refused there
    for horizons in ({c for _, c, _, _ in CENTRAL}, {c for _, _, c, _, _ in BY_ORDERS},
                     {c for _, _, c, _ in DISTRIBUTED}):  # fmt: skip
        assert min(horizons) == 1
        assert max(horizons) >= 1000
