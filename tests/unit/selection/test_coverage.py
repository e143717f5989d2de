"""Coverage and participation, worked by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.selection import History
from choral.selection import Participation, coverage
from choral.selection.coverage import Coverage, StratumCoverage


def test_by_hand(of_regions) -> None:
    population = of_regions("nnss")
    history = History({"c0": 3, "c2": 1}, {"c0": 5, "c2": 2})
    found = coverage(population, history, by="region", round=6)
    assert found == Coverage(
        clients=4,
        seen=2,
        never_seen=2,
        participations=4,
        jain=16 / (4 * 10),
        rounds_since_mean=2.5,  # 6 - 5 and 6 - 2
        rounds_since_max=4,
        strata={
            "n": StratumCoverage(2, 3, population_share=0.5, participation_share=0.75),
            "s": StratumCoverage(2, 1, population_share=0.5, participation_share=0.25),
        },
    )


def test_the_present_is_the_last_round_seen_unless_said(of_regions) -> None:
    history = History({"c0": 3, "c2": 1}, {"c0": 5, "c2": 2})
    found = coverage(of_regions("nnss"), history)
    assert (found.rounds_since_mean, found.rounds_since_max) == (1.5, 3)
    assert found.strata is None


def test_jain_at_its_ends(of_regions) -> None:
    population = of_regions("nnnn")
    everyone = History(dict.fromkeys(population.ids, 7), dict.fromkeys(population.ids, 9))
    assert coverage(population, everyone).jain == 1.0
    assert coverage(population, History({"c3": 7}, {"c3": 9})).jain == 0.25


@settings(deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=20), extra=st.integers(0, 20))
def test_jain_lies_between_its_ends(counts: list[int], extra: int) -> None:
    class Some:
        ids = range(len(counts) + extra)

    completed = dict(enumerate(counts))
    found = coverage(Some(), History(completed, completed))
    assert 1 / found.clients - 1e-12 <= found.jain <= 1 + 1e-12
    assert found.seen + found.never_seen == found.clients


def test_nobody_yet(of_regions) -> None:
    found = coverage(of_regions("ns"), History({}, {}), by="region", round=1)
    assert (found.seen, found.never_seen, found.participations) == (0, 2, 0)
    assert found.jain is None
    assert found.rounds_since_mean is None
    assert found.rounds_since_max is None
    assert found.strata["n"] == StratumCoverage(1, 0, 0.5, None)


def test_clients_without_the_label_are_a_stratum_of_their_own(of_regions) -> None:
    found = coverage(of_regions("n-"), History({"c1": 1}, {"c1": 1}), by="region")
    assert set(found.strata) == {"n", "(none)"}
    assert found.strata["(none)"].participation_share == 1.0


def test_as_json_is_json(of_regions) -> None:
    history = History({"c0": 1}, {"c0": 1})
    body = coverage(of_regions("ns"), history, by="region").as_json()
    assert json.loads(json.dumps(body)) == body
    assert body["strata"]["s"] == {
        "clients": 1,
        "participations": 0,
        "population_share": 0.5,
        "participation_share": 0.0,
    }
    assert coverage(of_regions("ns"), history).as_json()["strata"] is None


def test_a_million_clients_are_not_touched_without_strata() -> None:
    class Untouched(Sequence):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, place: int) -> str:
            raise AssertionError("an id was asked for")

    class Million:
        ids = Untouched()

    completed = {f"c{i}": 1 for i in range(1000)}
    start = time.perf_counter()
    found = coverage(Million(), History(completed, completed))
    assert time.perf_counter() - start < 0.05
    assert found.never_seen == 999_000
    assert found.jain == pytest.approx(0.001)


def test_participation_counts_rounds() -> None:
    seen = Participation()
    assert seen.history() == History({}, {})
    seen.observe(1, ["a", "b"])
    seen.observe(2, iter(["b", "b"]))
    seen.observe(4, [])
    assert seen.history() == History({"a": 1, "b": 2}, {"a": 1, "b": 2})


def test_a_history_does_not_change_afterwards() -> None:
    seen = Participation()
    seen.observe(1, ["a"])
    before = seen.history()
    assert seen.history() is before, "nothing happened in between"
    seen.observe(2, ["a"])
    assert before == History({"a": 1}, {"a": 1})
    assert seen.history() == History({"a": 2}, {"a": 2})
