"""Virtual time: future events in the order in which they will happen."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

from choral.core.errors import StoreError
from choral.federation.events import Event

Happening: TypeAlias = Callable[[], Event | None]
"""Something that happens at a moment: it gives an event, or None where nothing came of it."""


class Agenda:
    """Happenings by virtual time; equal times keep the order in which they were added.

    Attributes:
        now: Seconds since the driver started.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Happening]] = []
        self._count = 0

    def add(self, after_s: float, happening: Happening) -> None:
        """Let something happen `after_s` seconds from now."""
        heapq.heappush(self._heap, (self.now + after_s, self._count, happening))
        self._count += 1

    def next(self) -> Event | None:
        """Go to the next moment and return its event.

        Raises:
            StoreError: Nothing will ever happen, which is a defect of the machines.
        """
        if not self._heap:
            raise StoreError("the run waits for something that will never happen")
        self.now, _, happening = heapq.heappop(self._heap)
        return happening()
