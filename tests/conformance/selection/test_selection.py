"""The laws that every selector keeps. A new one enters by a row in TABLE.

The statistical tests have fixed seeds, so they pass or fail once and for all; each threshold is
that which a correct selector would miss for one seed in a million.
"""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.selection import Draft, History
from choral.selection import SELECTIONS, build

TABLE = [
    ("uniform", {}),
    ("round_robin", {}),
    ("poisson", {}),
    ("stratified", {"by": "region"}),
    ("stratified", {"by": "region", "minimum": 1}),
    ("hybrid", {"by": "region"}),
    ("hybrid", {"by": "region", "random_share": 0.25, "min_share": {"west": 0.1}}),
]
VARYING = {"poisson"}
"""Selectors whose cohort has the count as its expectation only."""
READS_ALL = {"stratified", "hybrid"}
"""Selectors that read the labels of the whole population."""
EVEN = [row for row in TABLE if not {"minimum", "min_share"} & row[1].keys()]
"""Rows that give every client the same chance."""

CHI_SQUARE = {19: 63.68, 63: 131.37, 99: 180.80}
"""Degrees of freedom to the value exceeded with probability 1e-6, rounded up."""

every = pytest.mark.parametrize(("name", "arguments"), TABLE, ids=str)
NOBODY = History({}, {})
REGIONS = ("north", "north", "north", "north", "east", "east", "east", "south", "south", "west")
"""Regions of ten clients in turn: 40, 30, 20 and 10 per cent."""


class Ids(Sequence):
    """The ids c0, c1, … of clients that exist only when asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> str:
        if not 0 <= place < self.size:
            raise IndexError(place)
        return f"c{place}"


@dataclass(frozen=True)
class Lazy:
    """A population of any size without memory."""

    size: int

    @property
    def ids(self) -> Ids:
        return Ids(self.size)

    def strata(self, client: str) -> dict[str, str]:
        return {"region": REGIONS[int(client[1:]) % len(REGIONS)]}


def select(
    selector: object, size: int, count: int, *, at: int = 1, attempt: int = 1, seed: int = 1
):
    """The cohort of one attempt, with the key that a run would give it."""
    key = Key.root(seed).fold(at, attempt, "selection")
    return selector(Lazy(size), Draft(at, attempt, count), NOBODY, key)


def test_every_selector_enters() -> None:
    assert {name for name, _ in TABLE} == set(SELECTIONS)


@every
def test_a_selector_is_a_named_value(name: str, arguments: dict) -> None:
    selector = build(name, **arguments)
    assert selector.name == name
    assert selector == build(name, **arguments)
    assert type(selector).__dataclass_params__.frozen
    assert not hasattr(selector, "__dict__"), "slots=True is missing"


@every
@pytest.mark.parametrize(("size", "count"), [(10, 4), (10, 9), (10, 10), (1, 1), (300, 20)])
def test_distinct_clients_of_the_population(
    name: str, arguments: dict, size: int, count: int
) -> None:
    if size == 1 and "min_share" in arguments:
        arguments = {"by": "region"}
    selector = build(name, **arguments)
    members = set(Lazy(size).ids)
    for at in range(1, 21):
        cohort = select(selector, size, count, at=at)
        assert isinstance(cohort, tuple)
        assert len(set(cohort)) == len(cohort)
        assert set(cohort) <= members
        if name not in VARYING or count == size:
            assert len(cohort) == count


@every
def test_a_selection_replays(name: str, arguments: dict) -> None:
    first = build(name, **arguments)
    cohorts = [select(first, 50, 8, at=at, attempt=a) for at in range(1, 6) for a in (1, 2)]
    again = build(name, **arguments)
    replayed = [
        select(again, 50, 8, at=at, attempt=a) for at in reversed(range(1, 6)) for a in (2, 1)
    ]
    assert cohorts == replayed[::-1]


@every
def test_nothing_given_is_changed(name: str, arguments: dict) -> None:
    history = History({"c1": 2}, {"c1": 2})
    key = Key.root(3).fold("selection")
    build(name, **arguments)(Lazy(40), Draft(1, 1, 8), history, key)
    assert history == History({"c1": 2}, {"c1": 2})
    assert key == Key.root(3).fold("selection")


@every
def test_rounds_and_attempts_differ(name: str, arguments: dict) -> None:
    selector = build(name, **arguments)
    cohorts = {select(selector, 100, 10, at=at, attempt=a) for at in (1, 4) for a in (1, 2)}
    assert len(cohorts) == 4


@every
@pytest.mark.parametrize("count", [1, 3, 6])
def test_everyone_is_chosen_in_the_end(name: str, arguments: dict, count: int) -> None:
    """The rarest client is left out of all rounds with a probability below 1e-9."""
    if {"minimum", "min_share"} & arguments.keys():
        count = 6  # a smaller cohort has no seat beyond the minimums
    selector = build(name, **arguments)
    chosen = {c for at in range(1, 401) for c in select(selector, 10, count, at=at)}
    assert chosen == set(Lazy(10).ids)


@every
@pytest.mark.parametrize("count", [11, 12])
def test_more_clients_than_there_are(name: str, arguments: dict, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"asks for {count} clients of 10 \(lower"):
        select(build(name, **arguments), 10, count)


@every
def test_fewer_than_one(name: str, arguments: dict) -> None:
    with pytest.raises(ConfigError, match="asks for 0 clients, expected at least 1"):
        select(build(name, **arguments), 10, 0)
    with pytest.raises(ConfigError, match="asks for 1 clients of 0"):
        select(build(name, **arguments), 0, 1)


@pytest.mark.parametrize(("name", "arguments"), EVEN, ids=str)
@pytest.mark.parametrize(("size", "count"), [(20, 5), (20, 2), (10, 8)])
def test_every_client_has_the_same_chance(
    name: str, arguments: dict, size: int, count: int
) -> None:
    """A client's number of cohorts is binomial in each of these selectors, or even.

    Beyond 6 standard deviations: 2e-9 for a client, 4e-8 for twenty.
    """
    rounds = 2000
    selector = build(name, **arguments)
    seen = Counter(c for at in range(1, rounds + 1) for c in select(selector, size, count, at=at))
    mean = rounds * count / size
    deviation = sqrt(mean * (1 - count / size))
    assert all(abs(seen[c] - mean) < 6 * deviation for c in Lazy(size).ids)


@pytest.mark.parametrize(("name", "arguments"), EVEN, ids=str)
def test_the_first_of_a_cohort_are_no_favourites(name: str, arguments: dict) -> None:
    """Who finishes first closes the round: each client leads equally often, within 6 sigma."""
    rounds, size = 2000, 10
    selector = build(name, **arguments)
    cohorts = (select(selector, size, 4, at=at) for at in range(1, rounds + 1))
    first = Counter(cohort[0] for cohort in cohorts if cohort)
    mean = first.total() / size
    if name == "round_robin":
        # Steps of 4 through 10 start at every second place.
        assert set(first) == {f"c{i}" for i in range(0, 10, 2)}
    else:
        assert all(abs(first[c] - mean) < 6 * sqrt(mean * 0.9) for c in Lazy(size).ids)


def test_uniform_makes_every_set_equally_likely() -> None:
    """All 20 sets of three of six clients: chi-square, false alarm 1e-6."""
    rounds = 6000
    sets = Counter(frozenset(select(build("uniform"), 6, 3, at=at)) for at in range(rounds))
    mean = rounds / comb(6, 3)
    found = [sets[frozenset(s)] for s in itertools.combinations(Lazy(6).ids, 3)]
    assert sum((x - mean) ** 2 / mean for x in found) < CHI_SQUARE[19]


def test_uniform_draws_from_a_large_population_evenly() -> None:
    """Draws of 50 of 100 000 counted in 100 equal parts: chi-square, false alarm 1e-6."""
    rounds, size, parts = 200, 100_000, 100
    found = np.zeros(parts)
    for at in range(rounds):
        for client in select(build("uniform"), size, 50, at=at):
            found[int(client[1:]) * parts // size] += 1
    mean = rounds * 50 / parts
    assert ((found - mean) ** 2 / mean).sum() < CHI_SQUARE[99]


def test_poisson_tosses_independent_coins() -> None:
    """All 64 subsets of six clients at chance 1/3: chi-square, false alarm 1e-6."""
    rounds, p = 8000, 1 / 3
    sets = Counter(frozenset(select(build("poisson"), 6, 2, at=at)) for at in range(rounds))
    statistic = 0.0
    for m in range(7):
        mean = rounds * p**m * (1 - p) ** (6 - m)
        for s in itertools.combinations(Lazy(6).ids, m):
            statistic += (sets[frozenset(s)] - mean) ** 2 / mean
    assert statistic < CHI_SQUARE[63]
    assert frozenset() in sets, "an empty cohort is possible"


def test_poisson_sizes_have_the_binomial_spread() -> None:
    """Mean and variance of 1 000 sizes at 1 000 of a million, within 6 standard errors."""
    rounds, size, count = 1000, 1_000_000, 1000
    sizes = np.array([len(select(build("poisson"), size, count, at=at)) for at in range(rounds)])
    variance = count * (1 - count / size)
    assert abs(sizes.mean() - count) < 6 * sqrt(variance / rounds)
    assert abs(sizes.var(ddof=1) / variance - 1) < 6 * sqrt(2 / (rounds - 1))


@pytest.mark.parametrize(
    ("name", "arguments", "least"),
    [
        ("stratified", {"by": "region", "minimum": 2}, 2),
        ("stratified", {"by": "region", "min_share": 0.2}, 2),
        ("stratified", {"by": "region", "min_share": {"west": 0.25}}, 0),
        ("hybrid", {"by": "region", "random_share": 0.2, "minimum": 2}, 2),
        ("hybrid", {"by": "region", "random_share": 0.2, "min_share": 0.2}, 2),
    ],
    ids=str,
)
def test_minimums_hold_in_every_round(name: str, arguments: dict, least: int) -> None:
    population = Lazy(100)
    for at in range(1, 101):
        cohort = select(build(name, **arguments), 100, 10, at=at)
        seats = Counter(population.strata(c)["region"] for c in cohort)
        assert all(seats[region] >= least for region in set(REGIONS))
        if isinstance(arguments.get("min_share"), dict):
            assert seats["west"] >= 3


def test_stratified_cohorts_look_like_the_population() -> None:
    population = Lazy(100)
    for at in range(1, 51):
        cohort = select(build("stratified", by="region"), 100, 20, at=at)
        seats = Counter(population.strata(c)["region"] for c in cohort)
        assert seats == {"north": 8, "east": 6, "south": 4, "west": 2}


def fastest(selector: object, size: int, count: int) -> float:
    """Seconds of the best of five selections."""
    times = []
    for at in range(1, 6):
        start = time.perf_counter()
        select(selector, size, count, at=at)
        times.append(time.perf_counter() - start)
    return min(times)


@every
def test_a_large_population_is_quick(name: str, arguments: dict) -> None:
    """A million clients within 50 ms; a hundred thousand within a second where labels are read."""
    size, bound_s = (100_000, 1.0) if name in READS_ALL else (1_000_000, 0.05)
    assert fastest(build(name, **arguments), size, 1000) < bound_s


@pytest.mark.parametrize(
    ("name", "arguments"), [row for row in TABLE if row[0] not in READS_ALL], ids=str
)
def test_a_large_population_costs_no_memory(name: str, arguments: dict) -> None:
    selector = build(name, **arguments)
    select(selector, 1_000_000, 1000)
    tracemalloc.start()
    try:
        select(selector, 1_000_000, 1000, at=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000, "one byte a client would be more"
