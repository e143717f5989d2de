"""Poisson sampling."""

from __future__ import annotations

from choral.core.keys import Key
from choral.core.selection import Draft, History
from choral.selection import Poisson
from choral.selection.draws import binomial, sample

NOBODY = History({}, {})


def test_a_binomial_number_then_a_uniform_sample(of_regions) -> None:
    population = of_regions("n" * 30)
    for at in range(20):
        key = Key.root(5).fold(at)
        size = binomial(key.fold("size").uniform(), 30, 4)
        expected = tuple(f"c{i}" for i in sample(key.fold("clients"), 30, size))
        assert Poisson()(population, Draft(at + 1, 1, 4), NOBODY, key) == expected


def test_sizes_vary_and_may_be_zero(of_regions) -> None:
    population = of_regions("n" * 30)
    sizes = {
        len(Poisson()(population, Draft(at, 1, 2), NOBODY, Key.root(5).fold(at)))
        for at in range(1, 200)
    }
    assert {0, 1, 2, 3, 4} <= sizes


def test_a_chance_of_one_takes_everyone(of_regions) -> None:
    cohort = Poisson()(of_regions("n" * 8), Draft(1, 1, 8), NOBODY, Key.root(5))
    assert sorted(cohort) == [f"c{i}" for i in range(8)]
