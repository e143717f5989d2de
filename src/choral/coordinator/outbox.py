"""What others may see only once it is durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from choral.core.errors import Fenced, StoreError
from choral.core.failpoints import reach
from choral.core.ports import Clock
from choral.federation.journal import Journal

PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Between attempts to reach a storage that says no; the last one is repeated."""
PATIENCE_S: Final = 900.0
"""How long a run waits for its storage before it ends, to be resumed."""

T = TypeVar("T")


class Outbox:
    """Calls that wait for the log.

    Args:
        journal: The log.
        clock: Time.
        pause: Waits so many seconds.

    Attributes:
        waiting: What the storage says, while it says no; empty otherwise.
    """

    def __init__(self, journal: Journal, *, clock: Clock, pause: Callable[[float], None]) -> None:
        self.waiting = ""
        self._journal = journal
        self._clock = clock
        self._pause = pause
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._durable = 0  # so many at the front speak of what is in the log

    def add(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call once everything before it is durable."""
        self._calls.append((call, arguments))

    def point(self, name: str) -> None:
        """Reach the failpoint `A.B.C` now, and `A.B.stored` once the log is durable."""
        reach(name)
        self.add(reach, f"{name.rpartition('.')[0]}.stored")

    def flush(self) -> None:
        """Make everything durable.

        Raises:
            Fenced: Another process has taken the run over.
            StoreError: The storage says no for too long.
        """
        if self._journal.waits:
            self.insist(self._journal.flush)

    def send(self) -> None:
        """Make the calls, durable or not."""
        while self._calls:
            call, arguments = self._calls.popleft()
            self._durable = max(0, self._durable - 1)
            call(*arguments)

    def drop(self) -> None:
        """Forget the calls that speak of what is not durable, and never will be."""
        while len(self._calls) > self._durable:
            self._calls.pop()

    def insist(self, call: Callable[[], T]) -> T:
        """Make a call that stores something; wait where the storage says no.

        Raises:
            Fenced: Another process has taken the run over.
            StoreError: The storage says no for too long.
        """
        tries, patience = 0, self._clock.monotonic() + PATIENCE_S
        while True:
            try:
                found = call()
            except Fenced:
                raise
            except StoreError as error:
                if self._clock.monotonic() > patience:
                    raise
                self.waiting = f"waiting for the storage: {error.message}"
                self._pause(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                tries += 1
            else:
                self.waiting = ""
                if not self._journal.waits:
                    self._durable = len(self._calls)
                return found
