"""Group commit: the writes of threads that wait for the disk share its next turn.

SQLite has one writer at a time, and a durable commit waits for the disk. While one thread waits,
others queue; whoever comes next commits for all of them in one transaction.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from choral.core.errors import StoreUnavailable
from choral.stores.engines import Backend

T = TypeVar("T")
Work = Callable[[sa.Connection], Any]


class _Job:
    """Work that waits for its turn, and then its outcome."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.value: Any = None
        self.error: Exception | None = None
        self.done = False

    def run(self, db: sa.Connection) -> None:
        """Do the work in a savepoint, so that what fails takes nobody else's work along."""
        try:
            with db.begin_nested():
                self.value = self.work(db)
        except Exception as error:
            # On a full disk SQLite may have undone the whole transaction, not this work alone.
            if not getattr(db.connection.dbapi_connection, "in_transaction", False):
                raise
            self.error = error


class GroupedWrites:
    """Does work in transactions that threads share.

    Args:
        backend: An SQLite database.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._change = threading.Condition()
        self._queue: list[_Job] = []
        self._busy = False

    def __call__(self, work: Callable[[sa.Connection], T]) -> T:
        """Do some work in a transaction; on return it is durable."""
        job = _Job(work)
        with self._change:
            self._queue.append(job)
            try:
                self._change.wait_for(lambda: job.done or not self._busy)
            finally:  # who is interrupted while waiting has written nothing, and will not
                if not job.done and self._busy and job in self._queue:
                    self._queue.remove(job)
            jobs = [] if job.done else self._take()
        if jobs:
            self._commit(jobs)
        if job.error is not None:
            raise self._backend.meaning(job.error) from None
        value: T = job.value
        return value

    def _take(self) -> list[_Job]:
        """Take everyone's jobs, one's own among them, and the turn."""
        jobs, self._queue, self._busy = self._queue, [], True
        return jobs

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Do all jobs in one transaction; where it fails as a whole, so does every job."""
        failure: Exception | None = StoreUnavailable(
            f"{self._backend.name}: a write was interrupted", hint="try again"
        )
        try:
            with self._backend.transaction(write=True) as db:
                if len(jobs) == 1:
                    jobs[0].value = jobs[0].work(db)
                else:
                    for job in jobs:
                        job.run(db)
            failure = None
        except Exception as error:  # noqa: BLE001  # every thread raises it
            failure = error
        finally:
            with self._change:
                for job in jobs:
                    job.error = copy.copy(failure) or job.error
                    job.done = True
                self._busy = False
                self._change.notify_all()
