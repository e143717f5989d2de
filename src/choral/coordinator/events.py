"""The newest events of a run, for those who watch it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, Final

from choral.core.ports import Observer
from choral.federation.events import EVENTS, Finish, to_record

LOG = logging.getLogger(__name__)

KEPT: Final = 4_000
"""Events of a run that can be read back; older ones are in its log on disk."""


def harmless(observer: Observer) -> Observer:
    """Return an observer that logs its own fault, and goes on: clients wait for what comes next."""

    def observe(item: Any) -> None:
        try:
            observer(item)
        except Exception:
            LOG.exception("an observer failed at %s", type(item).__name__)

    return observe


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
