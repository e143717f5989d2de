"""Private and released values at run time; what the type checker refuses is in tests/typing."""

import dataclasses

import pytest

from choral.core.errors import Refused
from choral.core.release import (
    NO_MECHANISM,
    PUBLIC,
    OpenLedger,
    Private,
    Released,
    ReleaseEvent,
    public,
)

EVENT = ReleaseEvent("model", 3, 1, NO_MECHANISM)


def test_an_open_ledger_records_and_releases() -> None:
    events: list[ReleaseEvent] = []
    released = OpenLedger(events.append).release(Private([1, 2]), what="model", round=3, attempt=1)
    assert released.value == [1, 2]
    assert events == [EVENT]
    assert released.event is events[0]
    assert (EVENT.mechanism, EVENT.epsilon, EVENT.delta) == ("none", None, None)


def test_the_record_is_made_before_the_value_is_handed_out() -> None:
    def full(event: ReleaseEvent) -> None:
        raise Refused("the budget of `heart` is spent")

    ledger = OpenLedger(full)
    with pytest.raises(Refused, match="budget"):
        ledger.release(Private(1), what="model", round=1, attempt=1)


def test_two_releases_are_two_records() -> None:
    events: list[ReleaseEvent] = []
    ledger, private = OpenLedger(events.append), Private(1)
    ledger.release(private, what="model", round=1, attempt=1)
    ledger.release(private, what="evaluation", round=1, attempt=1)
    assert [e.what for e in events] == ["model", "evaluation"]


def test_map_stays_private() -> None:
    doubled = Private(21).map(lambda v: 2 * v)
    assert type(doubled) is Private
    assert OpenLedger(lambda _: None).release(doubled, what="model", round=1, attempt=1).value == 42


def test_a_private_value_does_not_show_itself() -> None:
    private = Private("a patient's name")
    assert "patient" not in f"{private} {private!r}"
    assert not hasattr(private, "value")
    assert not hasattr(private, "__dict__")
    assert [n for n in dir(private) if not n.startswith("_")] == ["map"]


def test_a_private_value_opens_for_nobody_else() -> None:
    with pytest.raises(TypeError, match="opened by a ledger alone"):
        Private(1)._open(object())


def test_a_released_value_is_made_by_nobody_else() -> None:
    with pytest.raises(TypeError, match="made by a ledger alone"):
        Released(1, EVENT, gate=object())
    with pytest.raises(TypeError):
        Released(1, EVENT)  # type: ignore[call-arg]


def test_a_released_value_names_its_record() -> None:
    released = OpenLedger(lambda _: None).release(Private(1.5), what="model", round=3, attempt=1)
    assert repr(released) == f"Released(float, {EVENT})"
    assert not hasattr(released, "__dict__")


def test_what_is_computed_from_a_released_value_has_the_same_record() -> None:
    released = OpenLedger(lambda _: None).release(Private(21), what="model", round=3, attempt=1)
    doubled = released.map(lambda v: 2 * v)
    assert (doubled.value, doubled.event) == (42, released.event)
    assert released.value == 21


def test_a_public_value_says_that_no_client_was_asked() -> None:
    first = public([1.0], what="model")
    assert first.value == [1.0]
    assert first.event == ReleaseEvent("model", 0, 0, PUBLIC)
    assert PUBLIC != NO_MECHANISM


def test_a_released_value_cannot_be_exchanged() -> None:
    released = OpenLedger(lambda _: None).release(Private(1), what="model", round=1, attempt=1)
    with pytest.raises(AttributeError):
        released.value = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        released.event = dataclasses.replace(EVENT, mechanism="gaussian")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del released.value  # type: ignore[misc]
    assert (released.value, released.event.mechanism) == (1, NO_MECHANISM)


def test_an_event_is_a_value() -> None:
    assert len({EVENT, ReleaseEvent("model", 3, 1, "none")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT.epsilon = 1.0  # type: ignore[misc]
