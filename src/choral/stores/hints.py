"""Hints that something has changed, so that whoever waits looks before the next poll."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from choral.core.errors import StoreError
from choral.stores.database import Database

CHANNEL = "choral"
"""The one channel of PostgreSQL that is used; a hint's own channel is its payload."""


class Hints:
    """Wakes those who wait for a change; never the only way to learn of one.

    On PostgreSQL a hint reaches every process (`LISTEN`, `NOTIFY`). It may be lost with a
    connection, and may come without a change. On SQLite it reaches those who wait on this very
    object; others wait for as long as they have asked to. So look at the database after every wait,
    whatever it returns.

    Args:
        database: Where the changes are.
        channels: What to wait for, such as `runs`; nothing for one who only notifies.
    """

    def __init__(self, database: Database, *channels: str) -> None:
        self._backend = database.backend
        self._channels = frozenset(channels)
        self._here = threading.Event()
        self._connection: Any = None
        if self._by_server:
            with suppress(StoreError):  # the next wait tries again
                self._connection = self._listen()

    @property
    def _by_server(self) -> bool:
        return self._backend.is_postgres and bool(self._channels)

    def notify(self, channel: str) -> None:
        """Say that something has changed; where that fails, the poll finds it later."""
        if not self._backend.is_postgres:
            if channel in self._channels:
                self._here.set()
            return
        with suppress(StoreError), self._backend.transaction(write=True) as db:
            db.execute(sa.select(sa.func.pg_notify(CHANNEL, channel)))

    def wait(self, seconds: float) -> bool:
        """Wait for a hint, at most for so long; return whether one came.

        Hints that came since the last wait, or since this object was made, count, too.
        """
        deadline = time.monotonic() + seconds
        if self._by_server:
            try:
                return self._hear(deadline)
            except _lost():
                self._hang_up()
        came = self._here.wait(max(0.0, deadline - time.monotonic()))
        self._here.clear()
        return came

    def _hear(self, deadline: float) -> bool:
        if self._connection is None:
            self._connection = self._listen()
        while True:
            left = max(0.0, deadline - time.monotonic())
            if self._heard(left):
                while self._heard(0.0):  # one look at the database answers all that are there
                    pass
                return True
            if time.monotonic() >= deadline:
                return False

    def _heard(self, seconds: float) -> bool:
        """Return whether the next notifications, within some seconds, name a channel of ours."""
        notes = list(self._connection.notifies(timeout=seconds, stop_after=1))
        return any(note.payload in self._channels for note in notes)

    def _listen(self) -> Any:
        """Return a connection of its own that listens."""
        try:
            pooled = self._backend.engine.raw_connection()
        except sa.exc.SQLAlchemyError as error:
            raise self._backend.meaning(error) from None
        connection: Any = pooled.driver_connection
        pooled.detach()
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        return connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the connection that listens."""
        self._hang_up()


def _lost() -> tuple[type[Exception], ...]:
    """Return the errors that mean a lost connection."""
    import psycopg

    return (psycopg.Error, StoreError)
