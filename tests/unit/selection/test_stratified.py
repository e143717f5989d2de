"""Stratified and hybrid selection: seats worked by hand, minimums, and what is refused."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.selection import Draft, History
from choral.selection import Hybrid, Stratified
from choral.selection.strata import floors, seats_of

NOBODY = History({}, {})


def seats(sizes: dict[str, int], count: int, least: dict[str, int] | None = None, seed: int = 0):
    """Seats by stratum, for strata of the given sizes."""
    groups = {label: list(range(size)) for label, size in sizes.items()}
    return seats_of(groups, count, least or dict.fromkeys(sizes, 0), Key.root(seed))


def test_whole_shares_are_given_exactly() -> None:
    for seed in range(20):
        assert seats({"a": 50, "b": 30, "c": 20}, 10, seed=seed) == {"a": 5, "b": 3, "c": 2}


def test_fractions_get_the_rest_as_often_as_they_are_large() -> None:
    """Shares 1.5, 0.9 and 0.6: whole 1, 0, 0, and two seats for fractions 0.5, 0.9, 0.6."""
    rounds, total = 2000, Counter()
    for seed in range(rounds):
        found = seats({"a": 5, "b": 3, "c": 2}, 3, seed=seed)
        assert sum(found.values()) == 3
        assert found["a"] in (1, 2)
        assert found["b"] in (0, 1)
        assert found["c"] in (0, 1)
        total.update(found)
    for label, share, p in (("a", 1.5, 0.5), ("b", 0.9, 0.9), ("c", 0.6, 0.6)):
        # 6 standard deviations: false alarm 2e-9
        assert abs(total[label] - rounds * share) < 6 * sqrt(rounds * p * (1 - p))


def test_a_minimum_takes_its_seats_from_the_others_in_proportion() -> None:
    # c's share of 10 is 0.5; with 3 for it, 7 are left for a and b at 140 to 50: 5.16 and 1.84.
    sizes, least = {"a": 140, "b": 50, "c": 10}, {"a": 0, "b": 0, "c": 3}
    found = {tuple(seats(sizes, 10, least, seed).items()) for seed in range(60)}
    assert {dict(f)["c"] for f in found} == {3}
    assert {(dict(f)["a"], dict(f)["b"]) for f in found} == {(5, 2), (6, 1)}


def test_a_minimum_may_push_another_stratum_below_its_own() -> None:
    # Shares of 10: 5, 3.2, 1.8. With 5 for c, a and b divide 5: 3.05 and 1.95, b needs 3.
    sizes, least = {"a": 50, "b": 32, "c": 18}, {"a": 0, "b": 3, "c": 5}
    assert seats(sizes, 10, least) == {"a": 2, "b": 3, "c": 5}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_seats_add_up_and_keep_their_bounds(data: st.DataObject, sizes: list[int]) -> None:
    labels = [f"s{i}" for i in range(len(sizes))]
    named = dict(zip(labels, sizes, strict=True))
    least = {label: data.draw(st.integers(0, size)) for label, size in named.items()}
    count = data.draw(st.integers(1, sum(sizes)))
    assume(sum(least.values()) <= count)
    found = seats(named, count, least, seed=data.draw(st.integers(0, 9)))
    assert sum(found.values()) == count
    assert all(least[label] <= found[label] <= named[label] for label in labels)
    if not any(least.values()):
        assert all(abs(found[s] - count * named[s] / sum(sizes)) < 1 for s in labels)


def test_floors_round_up_but_not_for_binary_dust() -> None:
    groups = {"a": list(range(90)), "b": list(range(90))}
    assert floors(groups, 100, 0.07, 0) == {"a": 7, "b": 7}
    assert floors(groups, 10, 0.25, 0) == {"a": 3, "b": 3}
    assert floors(groups, 10, 0.25, 4) == {"a": 4, "b": 4}
    assert floors(groups, 10, {"b": 0.5}, 1) == {"a": 1, "b": 5}


def test_each_stratum_is_sampled_from_its_own_clients(of_regions) -> None:
    population = of_regions("nnnnss")
    for at in range(30):
        cohort = Stratified("region")(population, Draft(1, 1, 3), NOBODY, Key.root(at))
        assert len(set(cohort) & {"c0", "c1", "c2", "c3"}) == 2
        assert len(set(cohort) & {"c4", "c5"}) == 1


def test_small_strata_are_chosen_in_small_cohorts(of_regions) -> None:
    """With the largest remainder, two of these four would be chosen in every round."""
    population = of_regions("abcd")
    cohorts = [
        Stratified("region")(population, Draft(1, 1, 2), NOBODY, Key.root(at)) for at in range(400)
    ]
    seen = Counter(c for cohort in cohorts for c in cohort)
    assert all(abs(seen[c] - 200) < 6 * sqrt(100) for c in population.ids)
    assert len({frozenset(cohort) for cohort in cohorts}) == 6, "some strata never meet"


def test_hybrid_has_both_parts(of_regions) -> None:
    """Four of eight by strata: at least 2 and 2; the other four are any of the rest."""
    population = of_regions("n" * 20 + "s" * 20)
    selector = Hybrid("region", random_share=0.5)
    norths = set()
    for at in range(60):
        cohort = selector(population, Draft(1, 1, 8), NOBODY, Key.root(at))
        assert len(set(cohort)) == 8
        norths.add(sum(int(c[1:]) < 20 for c in cohort))
    assert min(norths) >= 2
    assert max(norths) <= 6
    assert len(norths) >= 4, "the random part is not random"


@pytest.mark.parametrize(("share", "spread"), [(0, {4}), (1, None)])
def test_hybrid_at_its_ends(of_regions, share: float, spread: set[int] | None) -> None:
    population = of_regions("n" * 20 + "s" * 20)
    selector = Hybrid("region", random_share=share)
    norths = {
        sum(int(c[1:]) < 20 for c in selector(population, Draft(1, 1, 8), NOBODY, Key.root(at)))
        for at in range(60)
    }
    assert norths == spread if spread else {1, 2, 6, 7} & norths


@pytest.mark.parametrize("selector", [Stratified("region"), Hybrid("region")])
def test_clients_without_the_label_are_named(of_regions, selector: object) -> None:
    with pytest.raises(ConfigError, match=r"no label `region` at 2 of 4 clients: c1, c3 \(declare"):
        selector(of_regions("n-s-"), Draft(1, 1, 2), NOBODY, Key.root(1))
    with pytest.raises(ConfigError, match="at 9 of 9 clients: c0, c1, c2, c3, c4 and 4 more"):
        selector(of_regions("-" * 9), Draft(1, 1, 2), NOBODY, Key.root(1))


def refusal(selector: object, population: object, count: int) -> str:
    with pytest.raises(ConfigError) as caught:
        selector(population, Draft(1, 1, count), NOBODY, Key.root(1))
    return str(caught.value)


def test_impossible_minimums_are_refused(of_regions) -> None:
    population = of_regions("nnnnss")
    assert "stratum `s` has 2 clients, its minimum in a cohort of 6 is 3" in refusal(
        Stratified("region", minimum=3), population, 6
    )
    assert "the minimums of 2 strata add up to 4 of 3 clients" in refusal(
        Stratified("region", minimum=2), population, 3
    )
    assert "the minimums of 2 strata add up to 4 of 2 clients" in refusal(
        Hybrid("region", random_share=0.5, minimum=2), population, 4
    )
    assert "the stratum `sn`, which no client has (did you mean" in refusal(
        Stratified("region", min_share={"sn": 0.1}), population, 3
    )


@pytest.mark.parametrize("kind", [Stratified, Hybrid])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_share": 1.5}, r"min_share 1.5: expected a number in \[0, 1\]"),
        ({"min_share": "0.1"}, "min_share '0.1'"),
        ({"min_share": {"n": -0.1}}, "min_share.n -0.1"),
        ({"min_share": {"n": 0.6, "s": 0.5}}, "min_share adds up to 1.1: expected at most 1"),
        ({"minimum": -1}, "minimum -1: expected a whole number from 0"),
        ({"minimum": 1.5}, "minimum 1.5"),
        ({"minimum": True}, "minimum True"),
    ],
)
def test_a_bad_argument_is_refused(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.name}\.{message}"):
        kind("region", **arguments)


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True, float("nan")])
def test_a_random_share_out_of_range_is_refused(share: object) -> None:
    with pytest.raises(ConfigError, match=r"hybrid\.random_share"):
        Hybrid("region", random_share=share)
