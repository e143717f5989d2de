"""What is to happen later on a run's thread."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from choral.core.ports import Clock
from choral.federation.events import Event

Happening = Callable[[], Event | None]


class Timers:
    """Things that will happen, by time.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Happening]] = []
        self._count = 0

    def add(self, after_s: float, happen: Happening) -> None:
        """Let something happen so many seconds from now."""
        self._count += 1
        heapq.heappush(self._heap, (self._clock.monotonic() + after_s, self._count, happen))

    def due(self) -> Event | None:
        """Let everything happen whose time has come, up to the first that gives an event."""
        while self._heap and self._heap[0][0] <= self._clock.monotonic():
            event = heapq.heappop(self._heap)[2]()
            if event is not None:
                return event
        return None

    @property
    def left_s(self) -> float | None:
        """Seconds to the next one, None where there is none."""
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None
