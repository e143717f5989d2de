"""Values that selectors are given."""

import dataclasses

import pytest

from choral.core.params import ClientId
from choral.core.selection import Draft, History


def test_draft_and_history_are_values() -> None:
    draft = Draft(round=2, attempt=1, count=4)
    assert draft == Draft(2, 1, 4)
    assert len({draft, Draft(2, 1, 4), Draft(2, 2, 4)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        draft.count = 5  # type: ignore[misc]


def test_a_client_never_seen_is_absent() -> None:
    history = History({ClientId("a"): 2}, {ClientId("a"): 3})
    assert history.completed.get(ClientId("b"), 0) == 0
    assert history.last_seen[ClientId("a")] == 3
