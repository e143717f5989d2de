"""What may leave: `Private` goes in, only a recorded release turns it into `Released`.

The store, the registry and evaluation accept `Released` alone, so a type checker refuses a leak.
A run without a privacy mechanism releases too, and its record says so by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, final

T = TypeVar("T")
U = TypeVar("U")

NO_MECHANISM = "none"
"""Name of the release that protects nothing."""

PUBLIC = "public"
"""Name of the release of values that come from no client."""

_GATE = object()


@dataclass(frozen=True, slots=True)
class ReleaseEvent:
    """The record of one release.

    Attributes:
        what: What is released: `model` or `evaluation`.
        round: Counted from 1; 0 stands for the run as a whole.
        attempt: Counted from 1.
        mechanism: Name of the mechanism; `none` where there is none.
        epsilon: Upper bound after this release, or None where no mechanism ran.
        delta: The delta it goes with, or None.
    """

    what: str
    round: int
    attempt: int
    mechanism: str
    epsilon: float | None = None
    delta: float | None = None


@final
class Private(Generic[T]):
    """A value derived from clients' data that has not been released.

    It has no accessor: `map` computes on it and stays private, a ledger's `release` opens it.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T) -> None:
        self.__value = value

    def map(self, function: Callable[[T], U]) -> Private[U]:
        """Return the private result of a function of the value."""
        return Private(function(self.__value))

    def __repr__(self) -> str:
        return "Private(…)"

    def _open(self, gate: object) -> T:
        if gate is not _GATE:
            raise TypeError("a Private value is opened by a ledger alone")
        return self.__value


@final
class Released(Generic[T]):
    """A value whose release has been recorded.

    Attributes:
        value: The value.
        event: The record.
    """

    __slots__ = ("__event", "__value")

    def __init__(self, value: T, event: ReleaseEvent, *, gate: object) -> None:
        if gate is not _GATE:
            raise TypeError("a Released value is made by a ledger alone")
        self.__value = value
        self.__event = event

    @property
    def value(self) -> T:
        """The value."""
        return self.__value

    @property
    def event(self) -> ReleaseEvent:
        """The record."""
        return self.__event

    def map(self, function: Callable[[T], U]) -> Released[U]:
        """Return the result of a function of the value: post-processing needs no new release."""
        return Released(function(self.value), self.event, gate=_GATE)

    def __repr__(self) -> str:
        return f"Released({type(self.value).__name__}, {self.event})"


def public(value: T, *, what: str) -> Released[T]:
    """Return a value that no client's data went into, such as a first model, as released."""
    return Released(value, ReleaseEvent(what, 0, 0, PUBLIC), gate=_GATE)


def recalled(value: T, event: ReleaseEvent) -> Released[T]:
    """Return a value that was released before, as the log says: reading it back is no release."""
    return Released(value, event, gate=_GATE)


class Ledger(Protocol):
    """The only way from private to released."""

    def release(self, private: Private[T], *, what: str, round: int, attempt: int) -> Released[T]:
        """Record a release and return the value, or raise `Refused` and release nothing."""
        ...


class OpenLedger:
    """The ledger of runs without a mechanism: every release is recorded as unprotected.

    Args:
        record: Called with each event before the value is handed out; where it raises, nothing is
            released.
    """

    def __init__(self, record: Callable[[ReleaseEvent], Any]) -> None:
        self._record = record

    def release(self, private: Private[T], *, what: str, round: int, attempt: int) -> Released[T]:
        """Record a release by the mechanism `none` and return the value."""
        event = ReleaseEvent(what, round, attempt, NO_MECHANISM)
        self._record(event)
        return Released(private._open(_GATE), event, gate=_GATE)


class MechanismLedger:
    """The ledger of runs with a mechanism.

    Args:
        record: What is released, round and attempt to the event, recorded before it returns; where
            it raises, nothing is released.
    """

    def __init__(self, record: Callable[[str, int, int], ReleaseEvent]) -> None:
        self._record = record

    def release(self, private: Private[T], *, what: str, round: int, attempt: int) -> Released[T]:
        """Record a release by its mechanism and return the value."""
        event = self._record(what, round, attempt)
        return Released(private._open(_GATE), event, gate=_GATE)
