"""The newest events of a run, for those who watch it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final

from choral.federation.events import EVENTS, Finish, to_record

KEPT: Final = 4_000
"""Events of a run that can be read back; older ones are in its log on disk."""


class EventLog:
    """An observer that keeps a run's events and its end, as JSON."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[tuple[int, str, dict[str, Any]]] = deque(maxlen=KEPT)
        self._count = 0

    def __call__(self, item: Any) -> None:
        """Note an event."""
        if isinstance(item, Finish):
            kind, body = "Finish", {"status": item.status, "reason": item.reason}
        elif type(item).__name__ in EVENTS:
            record = to_record(item)
            kind, body = record.kind, record.body
        else:
            return
        with self._lock:
            self._count += 1
            self._events.append((self._count, kind, body))

    def since(self, sequence: int) -> list[tuple[int, str, dict[str, Any]]]:
        """Return the events from a number on."""
        with self._lock:
            return [event for event in self._events if event[0] >= sequence]
