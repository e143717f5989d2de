"""What a client must never do twice, on its own disk."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from pathlib import Path
from typing import Final

from choral.core.errors import StoreError

NAME: Final = "answers.db"
LOCK: Final = "lock"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS slots (name TEXT PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class DurableOnce:
    """A `secagg.ports.OnceStore` in a SQLite file; each method is on disk when it returns.

    Args:
        folder: The client's state folder.

    Raises:
        StoreError: The file cannot be used. A client that cannot remember must not answer.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self._path = path
        self._lock = threading.Lock()
        self._owned = _own(folder)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"{path} cannot be used: {error}",
                hint="never restore it from a copy: that would answer twice; a new state folder "
                "needs a new enrolment",
            ) from None

    def claim(self, slot: str, answer: bytes) -> bytes:
        """Store `answer` in an empty slot; return what the slot holds now."""
        with self._lock, self._transaction():
            self._base.execute(
                "INSERT INTO slots VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (slot, answer)
            )
            found = self._base.execute(
                "SELECT answer FROM slots WHERE name = ?", (slot,)
            ).fetchone()
        return bytes(found[0])

    def read(self, slot: str) -> bytes | None:
        """Return what a slot holds, None where it is empty."""
        with self._lock:
            found = self._base.execute(
                "SELECT answer FROM slots WHERE name = ?", (slot,)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def advance(self, counter: str, value: int) -> bool:
        """Raise a counter to `value`; return False, changing nothing, where it is there already."""
        with self._lock, self._transaction():
            changed = self._base.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE "
                "SET value = excluded.value WHERE excluded.value > value",
                (counter, value),
            )
            return changed.rowcount > 0

    def latest(self, counter: str) -> int | None:
        """Return where a counter is, None where it was never raised."""
        with self._lock:
            found = self._base.execute(
                "SELECT value FROM counters WHERE name = ?", (counter,)
            ).fetchone()
        return None if found is None else int(found[0])

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()
        os.close(self._owned)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._base)


def _own(folder: Path) -> int:
    """Hold a state folder for this process alone.

    Raises:
        StoreError: Another process holds it, or it cannot be written to.
    """
    try:
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreError(
            f"another process works with the state folder {folder}",
            hint="one client, one process; give each client its own `--state`",
        ) from None
    return handle


class _Transaction:
    """One transaction that holds the write lock from its start."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base

    def __enter__(self) -> None:
        self._base.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._base.execute("COMMIT" if kind is None else "ROLLBACK")
