"""Round robin, worked by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.keys import Key
from choral.core.selection import Draft, History
from choral.selection import RoundRobin

NOBODY = History({}, {})


class Five:
    ids = tuple("abcde")

    def strata(self, client: str) -> dict[str, str]:
        return {}


def chosen(at: int, count: int, attempt: int = 1, population: object = None) -> str:
    drafted = Draft(at, attempt, count)
    return "".join(RoundRobin()(population or Five(), drafted, NOBODY, Key.root(1)))


def test_everyone_in_turn() -> None:
    assert [chosen(at, 2) for at in range(1, 6)] == ["ab", "cd", "ea", "bc", "de"]
    assert chosen(6, 2) == "ab"


def test_another_attempt_asks_whom_the_next_round_would_ask() -> None:
    assert chosen(1, 2, attempt=2) == chosen(2, 2) == "cd"
    assert chosen(2, 2, attempt=3) == "bc"


@pytest.mark.parametrize(("count", "shared"), [(2, 0), (3, 1), (4, 3), (5, 5)])
def test_another_attempt_repeats_as_few_as_possible(count: int, shared: int) -> None:
    for at in range(1, 8):
        assert len(set(chosen(at, count)) & set(chosen(at, count, attempt=2))) == shared


@settings(deadline=None, derandomize=True)
@given(count=st.integers(1, 5), rounds=st.integers(1, 40))
def test_counts_differ_by_one_at_most(count: int, rounds: int) -> None:
    seen = Counter("".join(chosen(at, count) for at in range(1, rounds + 1)))
    counts = [seen[c] for c in "abcde"]
    assert max(counts) - min(counts) <= 1


def test_the_key_has_no_say() -> None:
    draft = Draft(3, 1, 2)
    assert RoundRobin()(Five(), draft, NOBODY, Key.root(1)) == RoundRobin()(
        Five(), draft, NOBODY, Key.root(2)
    )
