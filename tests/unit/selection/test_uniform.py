"""Uniform selection."""

from __future__ import annotations

from choral.core.keys import Key
from choral.core.selection import Draft, History
from choral.selection import Uniform

NOBODY = History({}, {})


def test_the_cohort_is_the_sample_in_the_order_drawn(of_regions) -> None:
    population = of_regions("n" * 6)
    cohort = Uniform()(population, Draft(1, 1, 4), NOBODY, Key.root(7).fold("x"))
    assert cohort == ("c5", "c2", "c0", "c3")


def test_history_and_round_have_no_say(of_regions) -> None:
    population, key = of_regions("n" * 20), Key.root(7)
    cohort = Uniform()(population, Draft(1, 1, 4), NOBODY, key)
    assert cohort == Uniform()(population, Draft(9, 2, 4), History({"c1": 3}, {"c1": 3}), key)
