"""From releases to epsilon, and from epsilon to noise.

Epsilons are those of dp-accounting; this file chooses the accountant and charges to delta what its
events leave out: tables of integer noise, and caps of Poisson cohorts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from choral.core.checks import whole
from choral.core.errors import MissingExtra, PlanError
from choral.privacy.adapters import (
    Counts,
    Tradeoff,
    gaussian_tradeoff,
    pld_tradeoff,
    rdp_tradeoff,
)
from choral.privacy.noise import DISTANCE
from choral.privacy.vocabulary import (
    Epsilon,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    Sampling,
    WithoutReplacement,
    check_delta,
    check_epsilon,
)

ACCOUNTANTS: Final = ("auto", "gaussian", "pld", "rdp")

_TRADEOFFS: Final[Mapping[str, Callable[[Counts, Relation], Tradeoff]]] = {
    "gaussian": gaussian_tradeoff,
    "pld": pld_tradeoff,
    "rdp": rdp_tradeoff,
}
_FAR: Final = 50.0
_LEAST_NOISE: Final = 1e-3
_MOST_NOISE: Final = 1e7

_End: TypeAlias = tuple[float, float]
"""An end of a bracket: an amount of noise, and the logarithm of its epsilon over the target."""

_HUGE: Final = 40.0
"""Epsilon above which a privacy loss distribution takes long and says nothing."""


def epsilon_of(
    releases: Iterable[Release] | Counts,
    *,
    delta: float,
    relation: Relation,
    unit: PrivacyUnit = PrivacyUnit.USER,
    accountant: str = "auto",
) -> Epsilon:
    """Return an upper bound of the epsilon of all releases together.

    Args:
        releases: Each of them, over rounds, runs and mechanisms alike; or how often each is made.
        delta: In (0, 1).
        relation: Between which worlds. Sensitivities are those of one contribution: `replace`
            doubles them here.
        unit: Whose data the sensitivities are about; it is written beside the number.
        accountant: `auto` takes the tightest that covers all releases: the exact formula of the
            Gaussian where nothing is sampled, privacy loss distributions, else Rényi divergences.
            All are for parameters that were fixed before the first release, but the last, which
            holds for parameters chosen as one goes.

    Raises:
        PlanError: No accountant here covers them, or one that under-reports was asked for.
        MissingExtra: dp-accounting is not installed.

    >>> one = Release(Mechanism.GAUSSIAN, sigma=1.0, sensitivity=1.0)
    >>> epsilon_of([one, one], delta=1e-5, relation=Relation.ADD_REMOVE).accountant
    'gaussian'
    """
    counts = counted(releases)
    delta = check_delta(delta)
    chosen = _chosen(counts, relation, accountant)
    if chosen == "pld" and accountant == "auto" and _is_huge(counts, relation, delta):
        chosen = "rdp"
    value = with_slack(
        _TRADEOFFS[chosen](counts, relation), delta, slack(counts, caps=chosen != "pld")
    )
    return Epsilon(value, delta, unit, relation, chosen)


def counted(releases: Iterable[Release] | Counts) -> Counts:
    """Return how often each release is made."""
    if isinstance(releases, Mapping):
        return {release: whole("count", n, least=0) for release, n in releases.items() if n}
    return Counter(releases)


def _chosen(releases: Counts, relation: Relation, accountant: str) -> str:
    """Return the accountant that is asked for, or the tightest that covers everything."""
    if accountant in ("gdp", "clt", "glw"):
        raise PlanError(
            f"the accountant `{accountant}` is an approximation that under-reports epsilon",
            hint="use `auto`, `pld` or `rdp`",
        )
    if accountant not in ACCOUNTANTS:
        raise PlanError(
            f"unknown accountant `{accountant}`", hint="known: auto, pld, rdp, gaussian"
        )
    gaussian = all(r.kind is Mechanism.GAUSSIAN for r in releases)
    sampled = any(
        isinstance(r.sampling, Poisson | WithoutReplacement) and amplifies(r.sampling)
        for r in releases
    )
    if accountant == "gaussian" and (sampled or not gaussian):
        raise PlanError("the exact formula covers Gaussian noise without sampling alone")
    if accountant != "auto":
        return accountant
    if gaussian and not sampled:
        return "gaussian"
    fixed = any(isinstance(r.sampling, WithoutReplacement) for r in releases)
    return "pld" if gaussian and not fixed else "rdp"


def amplifies(sampling: Sampling) -> bool:
    """Return whether an accountant gives credit for a sampling."""
    if isinstance(sampling, Poisson):
        return sampling.q < 1
    return isinstance(sampling, WithoutReplacement) and sampling.cohort < sampling.population


def _is_huge(releases: Counts, relation: Relation, delta: float) -> bool:
    """Return whether Rényi divergences already show that epsilon is beyond meaning."""
    if relation is Relation.REPLACE:
        return False  # they do not cover Poisson sampling
    return rdp_tradeoff(releases, relation)(delta) > _HUGE


# --- what is charged to delta ---------------------------------------------------------------------


def slack(releases: Counts, *, caps: bool) -> float:
    """Return how far, in statistical distance, what runs is from what its event says.

    A mechanism within t of another that is (e, d)-private is (e, d + (1 + exp(e)) t)-private.

    Args:
        releases: What runs.
        caps: Count the cohorts that a cap cuts down; privacy loss distributions charge them by an
            event of their own, which costs less.
    """
    return sum(
        count * release.dimension * release.addends * DISTANCE
        + (count * cap_tail(release.sampling) if caps else 0.0)
        for release, count in releases.items()
    )


def cap_tail(sampling: Sampling) -> float:
    """Return the probability that a Poisson cohort is larger than its cap.

    >>> cap_tail(Poisson(0.05, cap=75, population=1000)) < 1e-3
    True
    """
    if not isinstance(sampling, Poisson) or sampling.cap is None or sampling.population is None:
        return 0.0
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtra(
            "the cost of a cap needs SciPy", hint="pip install 'choral[dp]'"
        ) from None
    # One more than the population: the world with one unit more is the worse of the two.
    return float(stats.binom.sf(sampling.cap, sampling.population + 1, sampling.q))


def with_slack(tradeoff: Tradeoff, delta: float, off: float) -> float:
    """Return epsilon at `delta` where (1 + exp(epsilon)) * `off` of it is spent on the slack.

    Edge case: infinity where the slack alone is too much.
    """
    value = tradeoff(delta)
    for _ in range(200 if off else 0):
        left = delta - (1.0 + math.exp(min(value, 700.0))) * off
        after = tradeoff(left) if left > 0 else math.inf
        if after <= value:
            return value
        if after - value < 1e-9:
            return after + 1e-9
        value = after
    return value if not off else math.inf


# --- calibration ----------------------------------------------------------------------------------


def noise_multiplier_for(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    sampling: Sampling,
    relation: Relation = Relation.ADD_REMOVE,
    accountant: str = "auto",
) -> float:
    """Return the smallest Gaussian noise multiplier z that keeps `rounds` releases below epsilon.

    Args:
        epsilon: Above 0.
        delta: In (0, 1).
        rounds: How many releases.
        sampling: Who takes part in each.
        relation: Between which worlds.
        accountant: As for `epsilon_of`.

    Returns:
        z, at most 0.1 % above the smallest; its epsilon is at most the one that is asked for.

    Raises:
        ConfigError: epsilon, delta or rounds is out of range.
        PlanError: No noise is enough, or no accountant covers it.

    >>> from choral.privacy.vocabulary import NoSampling
    >>> z = noise_multiplier_for(epsilon=2.0, delta=1e-5, rounds=4, sampling=NoSampling())
    >>> round(z, 1)
    4.0
    """
    whole("rounds", rounds, least=1)
    return smallest_noise(
        lambda z: {Release(Mechanism.GAUSSIAN, z, 1.0, sampling): rounds},
        epsilon=epsilon,
        delta=delta,
        relation=relation,
        accountant=accountant,
    )


def smallest_noise(
    releases: Callable[[float], Counts],
    *,
    epsilon: float,
    delta: float,
    relation: Relation,
    accountant: str = "auto",
) -> float:
    """Return the smallest amount of noise, within 0.1 %, that keeps releases below epsilon.

    Args:
        releases: From an amount of noise, 0.01 to 10^7, to what is released with it; more noise
            must not give more epsilon.
        epsilon: Above 0.
        delta: In (0, 1).
        relation: Between which worlds.
        accountant: As for `epsilon_of`.

    Raises:
        PlanError: No amount in that range is enough.
    """
    target, delta = check_epsilon(epsilon), check_delta(delta)

    def excess(z: float) -> float:
        found = epsilon_of(releases(z), delta=delta, relation=relation, accountant=accountant).value
        return math.log(max(found, 1e-12) / target) if math.isfinite(found) else _FAR

    guess, factor = 1.0, 1.12
    if _chosen(counted(releases(1.0)), relation, accountant) == "pld":
        guess, factor = _coarse(releases, target, delta, relation), 1.002
    low, high = _bracket(excess, guess, factor)
    return _narrowed(excess, low, high)


def _coarse(
    releases: Callable[[float], Counts], target: float, delta: float, relation: Relation
) -> float:
    """Return about the answer, from privacy loss distributions of a wide grid."""

    def excess(z: float) -> float:
        counts = counted(releases(z))
        if _is_huge(counts, relation, delta):
            return _FAR
        tradeoff = pld_tradeoff(counts, relation, interval=min(5e-3, target / 200))
        found = with_slack(tradeoff, delta, slack(counts, caps=False))
        return math.log(max(found, 1e-12) / target) if math.isfinite(found) else _FAR

    return _narrowed(excess, *_bracket(excess, 1.0, 1.12))


def _bracket(excess: Callable[[float], float], guess: float, factor: float) -> tuple[_End, _End]:
    """Return an amount of noise that is too little and one that is enough."""
    at, found = guess, excess(guess)
    while True:
        enough = found <= 0
        other = at / factor if enough else at * factor
        if other < _LEAST_NOISE and enough:
            return (at, 0.0), (at, found)
        if other > _MOST_NOISE:
            raise PlanError(
                "no noise gives that epsilon at that delta",
                hint="a larger delta, fewer rounds, or a larger cap of the cohort",
            )
        after = excess(other)
        if (after <= 0) != enough:
            return ((other, after), (at, found)) if enough else ((at, found), (other, after))
        at, found, factor = other, after, min(factor**2, 16.0)


def _narrowed(excess: Callable[[float], float], left: _End, right: _End) -> float:
    """Return the right end of a bracket of the root, narrowed to 0.1 % (false position)."""
    (low, above), (high, below) = left, right
    while high > low * 1.001:
        share = min(max(above / (above - below), 0.02), 0.98) if above < _FAR else 0.5
        guess = min(low * (high / low) ** share * 1.0003, high / 1.0001)
        found = excess(guess)
        if found > 0:
            low, above = guess, found
            continue
        high, below = guess, found
        below_it = guess / 1.0008
        if below_it > low:
            found = excess(below_it)
            if found > 0:
                low, above = below_it, found
            else:
                high, below = below_it, found
    return high
