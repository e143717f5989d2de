"""What goes wrong in one simulated run, and when: an explicit list that follows from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from choral.core.checks import one_of, whole
from choral.testing.faults.draws import Draws

MODES: Final = ("safety", "liveness")
AGGREGATIONS: Final = ("plain", "secure")
NAMES: Final = ("a", "b", "c", "d", "e")
"""Clients."""

CALM_S: Final = 90.0
"""Virtual seconds after which nothing goes wrong any more, in liveness mode."""
HORIZON_S: Final = 240.0
"""Virtual seconds of a run in safety mode."""
BOUND_S: Final = 900.0
"""Virtual seconds in which a run commits all its rounds once nothing goes wrong any more."""

IN_TIME_S: Final = 20.0
"""Longest training once nothing goes wrong any more: where a round needs all of its clients, and
they are late by chance, so is the end of the run."""

FULL: Final = 0.06
"""Fraction of secure schedules that take the suite against an active server."""

KINDS: Final[dict[str, str]] = {
    "drop": "message number `at` is lost",
    "delay": "message number `at` comes `value` seconds late",
    "duplicate": "message number `at` comes once more, `value` seconds later",
    "cut": "if message number `at` brings an upload, the fraction `value` of it arrives",
    "partition": "from second `at` on, for `value` seconds, nothing passes `who`",
    "crash": "the coordinator ends at its effect number `at`, and is back after `value` seconds",
    "drain": "the coordinator is stopped in order at second `at`, and back after `value`",
    "freeze": "the coordinator's run stands still at second `at` for `value` seconds",
    "takeover": "a second coordinator starts at second `at`; the first ends after `value`",
    "disk": "the coordinator's write number `at` fails, and those of the next `value` seconds",
    "kill": "client `who` ends at its effect number `at`, and is back after `value` seconds",
    "jump": "the wall clock of `who` jumps by `value` seconds at second `at`",
}
"""Kind of fault to what it does."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: One of `KINDS`.
        at: Number of a message, an effect or a write, or a virtual second.
        value: See the kind.
        who: A client; with `>` for its way to the coordinator, with `<` for the way back.
    """

    kind: str
    at: float
    value: float = 0.0
    who: str = ""

    def __str__(self) -> str:
        who = f" {self.who}" if self.who else ""
        return f"{self.kind}{who} at {self.at:g}, {self.value:g}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One simulated run and all that goes wrong in it.

    Attributes:
        seed: Every draw follows from it.
        mode: `safety` or `liveness`.
        aggregation: `plain` or `secure`.
        suite: Of secure aggregation.
        clients: How many there are.
        rounds: How many are to be committed.
        goal: Contributions that close a round at once; None for all.
        grace_s: Seconds that a round below its quorum waits on.
        asks: Clients measure the model, too.
        slow: Longest training, in virtual seconds.
        faults: What goes wrong.
    """

    seed: int
    mode: str
    aggregation: str
    suite: str
    clients: int
    rounds: int
    goal: int | None
    grace_s: float
    asks: bool
    slow: float
    faults: tuple[Fault, ...] = field(default=())

    @property
    def calm_s(self) -> float:
        """Virtual second from which nothing goes wrong any more."""
        return CALM_S if self.mode == "liveness" else math.inf

    def slow_at(self, now: float) -> float:
        """Return the longest training that begins at a virtual second."""
        return self.slow if now < self.calm_s else min(self.slow, IN_TIME_S)

    @property
    def until_s(self) -> float:
        """Virtual second at which the simulation ends at the latest."""
        return CALM_S + BOUND_S if self.mode == "liveness" else HORIZON_S

    def having(self, faults: tuple[Fault, ...]) -> Schedule:
        """Return the same run with other faults."""
        return replace(self, faults=faults)

    def as_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object."""
        return asdict(self)


def schedule_of(seed: int, *, mode: str = "safety", aggregation: str = "plain") -> Schedule:
    """Return the schedule of a seed.

    Args:
        seed: At least 0.
        mode: `safety`: anything may go wrong at any time. `liveness`: faults stop after a while.
        aggregation: `plain` or `secure`.

    >>> schedule_of(7) == schedule_of(7)
    True
    """
    whole("seed", seed, least=0)
    one_of("mode", mode, MODES)
    one_of("aggregation", aggregation, AGGREGATIONS)
    draws = Draws(seed, mode, aggregation, "schedule")
    secure = aggregation == "secure"
    suite = ("full" if draws.chance(FULL) else "semi_honest") if secure else ""
    clients = 3 + draws.below(2 if secure else 3)
    rounds = draws.one((1, 1, 2) if secure else (1, 2, 2, 3))
    return Schedule(
        seed=seed,
        mode=mode,
        aggregation=aggregation,
        suite=suite,
        clients=clients,
        rounds=rounds,
        goal=draws.one((None, None, clients - 1)),
        grace_s=draws.one((0.0, 0.0, 8.0)),
        asks=draws.chance(0.3),
        slow=draws.one((2.0, 2.0, 10.0, 45.0)),
        faults=_faults(draws, clients=clients, rounds=rounds),
    )


def _faults(draws: Draws, *, clients: int, rounds: int) -> tuple[Fault, ...]:
    """Return what goes wrong: some single faults, and on some lines a loss of many messages."""
    found: list[Fault] = []
    for _ in range(draws.one((0, 1, 1, 2, 2, 3, 4, 6))):
        kind = draws.one(_OFTEN)
        found.append(_SINGLE[kind](draws, kind, clients * rounds))
    loss = draws.one((0.0, 0.0, 0.02, 0.06, 0.15))
    if loss:
        at = 0.0
        while (at := at + 1 + math.floor(math.log(1.0 - draws.real()) / math.log(1 - loss))) < (
            40 * clients * rounds
        ):
            kind = draws.one(("drop", "delay", "duplicate"))
            found.append(Fault(kind, at, _seconds(draws)))
    return tuple(found)


def _seconds(draws: Draws) -> float:
    """Return a short or a long time, rounded so that people can read it."""
    return round(draws.one((0.05, 0.5, 3.0, 25.0)) * (0.2 + draws.real()), 2)


def _message(draws: Draws, kind: str, size: int) -> Fault:
    value = round(draws.real(), 2) if kind == "cut" else _seconds(draws)
    return Fault(kind, draws.below(30 * size), value)


def _effect(draws: Draws, kind: str, size: int) -> Fault:
    return Fault(kind, draws.below(60 * size), _seconds(draws))


def _write(draws: Draws, kind: str, size: int) -> Fault:
    return Fault(kind, draws.below(12 * size), _seconds(draws))


def _kill(draws: Draws, kind: str, size: int) -> Fault:
    clients = NAMES[: 3 + draws.below(3)]
    return Fault(kind, draws.below(40), _seconds(draws), draws.one(clients))


def _line(draws: Draws, kind: str, size: int) -> Fault:
    who = draws.one(NAMES[:4]) + draws.one("><=")
    return Fault(kind, round(draws.between(0, 40), 1), _seconds(draws), who)


def _moment(draws: Draws, kind: str, size: int) -> Fault:
    return Fault(kind, round(draws.between(0, 12 + 4 * size), 2), _seconds(draws))


def _jump(draws: Draws, kind: str, size: int) -> Fault:
    value = draws.one((-3600.0, -30.0, 30.0, 86400.0))
    return Fault(kind, round(draws.between(0, 40), 1), value, draws.one(("coordinator", "clients")))


_SINGLE: Final[dict[str, Callable[[Draws, str, int], Fault]]] = {
    "drop": _message,
    "delay": _message,
    "duplicate": _message,
    "cut": _message,
    "partition": _line,
    "crash": _effect,
    "drain": _moment,
    "freeze": _moment,
    "takeover": _moment,
    "disk": _write,
    "kill": _kill,
    "jump": _jump,
}
_OFTEN: Final = (
    *("crash",) * 6,
    *("kill",) * 3,
    *("drop", "delay", "duplicate", "cut", "cut", "partition", "partition"),
    *("drain", "freeze", "takeover", "takeover", "disk", "jump"),
)
"""How often each kind is drawn."""
