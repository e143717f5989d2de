"""One thread, one virtual clock: what happens next, and the wire between two parties."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from choral.testing.faults.draws import Draws
from choral.testing.faults.schedule import Fault, Schedule

WALL: Final = 1_700_000_000.0
"""Seconds since 1970 at the start of a simulation."""

NEVER: Final = 1 << 60

TICK_S: Final = 1e-6
"""Virtual seconds that pass with a look at a clock."""

MOST_STEPS: Final = 100_000
"""Things that happen in one simulation before it counts as going in circles."""


class Ended(BaseException):
    """A process ends here: whatever it was doing, nothing of it goes on."""


class Violated(BaseException):
    """An invariant does not hold.

    Attributes:
        name: Of the invariant.
        detail: What was seen.
    """

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class Engine:
    """Things that will happen, in the order of their virtual time.

    Args:
        traced: Keep what happens, in words.

    Attributes:
        now: Virtual seconds since the start.
        trace: What happened.
        steps: How many things have happened.
    """

    __slots__ = ("_count", "_heap", "now", "steps", "trace", "traced")

    def __init__(self, *, traced: bool = False) -> None:
        self.now = 0.0
        self.trace: list[str] = []
        self.traced = traced
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, after_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Make a call so many virtual seconds from now."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + after_s, self._count, call, arguments))

    def next(self, until_s: float) -> bool:
        """Let the next thing happen; return whether there was one up to this second."""
        if not self._heap or self._heap[0][0] > until_s:
            return False
        time, _, call, arguments = heapq.heappop(self._heap)
        self.now = max(self.now, time)
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Violated("no party goes in circles", f"{call} at second {self.now:g}")
        call(*arguments)
        return True

    def say(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        if self.traced:
            self.trace.append(f"{self.now:9.3f}  {who:12} {what}")


class Clock:
    """The clock of a party: it goes with the engine's, and its wall may jump.

    Args:
        engine: Virtual time.
    """

    __slots__ = ("_engine", "jumped")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.jumped = 0.0

    def monotonic(self) -> float:
        """Return virtual seconds since the start; looking takes a moment, too."""
        self._engine.now += TICK_S
        return self._engine.now

    def wall(self) -> float:
        """Return seconds since 1970 as this party believes."""
        return WALL + self._engine.now + self.jumped


class Numbered:
    """Faults that come at a number: of an effect, or of a write.

    Args:
        faults: Those of one party and kind.
    """

    __slots__ = ("_at", "count", "next")

    def __init__(self, faults: list[Fault]) -> None:
        self._at = sorted(faults, key=lambda f: f.at, reverse=True)
        self.count = 0
        self.next = self._at[-1].at if self._at else NEVER

    def due(self) -> Fault | None:
        """Count one more; return the fault that comes now."""
        self.count += 1
        if self.count <= self.next:
            return None
        fault = self._at.pop()
        self.next = self._at[-1].at if self._at else NEVER
        return fault


@dataclass(frozen=True, slots=True)
class Way:
    """What becomes of one message.

    Attributes:
        delays: Seconds until it arrives, once for each time that it does.
        whole: Fraction of an upload that arrives.
    """

    delays: tuple[float, ...]
    whole: float = 1.0


class Wire:
    """Between clients and coordinators: loses, delays, repeats, reorders and cuts.

    Args:
        engine: Virtual time.
        schedule: What goes wrong.
        draws: For ordinary delays.
    """

    def __init__(self, engine: Engine, schedule: Schedule, draws: Draws) -> None:
        self._engine = engine
        self._draws = draws
        self._calm_s = schedule.calm_s
        self._numbered: dict[int, list[Fault]] = defaultdict(list)
        self._lines: list[Fault] = []
        self._count = 0
        for fault in schedule.faults:
            if fault.kind in {"drop", "delay", "duplicate", "cut"}:
                self._numbered[int(fault.at)].append(fault)
            elif fault.kind == "partition":
                self._lines.append(fault)

    def way(self, client: str, up: bool, what: str) -> Way:
        """Return what becomes of the next message.

        Args:
            client: On one side of it.
            up: From the client to the coordinator.
            what: For the trace.
        """
        number, self._count = self._count, self._count + 1
        delay = self._draws.between(0.005, 0.05)
        if self._engine.now >= self._calm_s:
            return Way((delay,))
        again: list[float] = []
        whole = 1.0
        lost = self._cut_off(client, up)
        for fault in self._numbered.get(number, ()):
            lost |= fault.kind == "drop"
            if fault.kind == "delay":
                delay += fault.value
            elif fault.kind == "duplicate":
                again.append(delay + fault.value)
            elif fault.kind == "cut":
                whole = fault.value
            self._engine.say("wire", f"{fault.kind} {number}: {what}")
        return Way(() if lost else (delay, *again), whole)

    def _cut_off(self, client: str, up: bool) -> bool:
        now = self._engine.now
        mine = (client + (">" if up else "<"), client + "=")
        return any(f.at <= now < f.at + f.value and f.who in mine for f in self._lines)
