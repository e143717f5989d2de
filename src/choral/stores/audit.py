"""The writer of an audit trail, and where a trail is: the log `audit` of a database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from choral.core.errors import Conflict, Fenced, StoreError, TamperedAudit
from choral.core.ports import LogStore, Record
from choral.crypto.signatures import SigningKey
from choral.federation.audit import CHECKPOINT, LOG, Head, checkpoint, entry, follow

if TYPE_CHECKING:
    from choral.stores.sqlite import SqliteRunStore

DATABASE: Final = "audit.db"
"""The trail's file in the folder of the runs."""
EVERY: Final = 64
"""Most entries that wait for a checkpoint."""
_TRIES: Final = 1000
"""How often entries are chained anew while others append."""


class Trail:
    """Writes an audit trail. Entries gather until `flush`, which is one durable transaction.

    Several processes may write one trail. Any thread may call any method.

    Args:
        store: Where logs are.
        key: Signs checkpoints; None where this process has no such key.
        now: Seconds since 1970.

    Raises:
        TamperedAudit: The trail that is there was changed.
    """

    def __init__(
        self, store: LogStore, *, key: SigningKey | None, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._key = key
        self._now = now
        self._noting, self._writing = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._sign = False
        self._batch: list[tuple[str, dict[str, Any]]] = []
        self._batch_sign = False
        self._unsigned = 0
        self._head = Head()
        self._catch_up()

    @property
    def head(self) -> Head:
        """How far the trail has come on disk, as this process knows it."""
        return self._head

    def note(self, kind: str, /, *, sign: bool = False, **fields: Any) -> None:
        """Remember what happened for the next `flush`; does not wait.

        Args:
            kind: What happened, such as `round.committed`.
            sign: Write a checkpoint behind it.
            fields: JSON values.
        """
        at = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        with self._noting:
            self._waiting.append((kind, {**fields, "at": at}))
            self._sign |= sign

    def flush(self) -> Head:
        """Make all that was noted durable; return the head.

        Raises:
            StoreError: It cannot be stored now; it still waits.
            Fenced: Another process leads; what was noted here is no part of the trail.
            TamperedAudit: What another process has written meanwhile does not follow.
        """
        with self._writing:
            while True:
                with self._noting:
                    if not self._batch and not self._waiting:
                        return self._head
                    if not self._batch:  # else: whether it was written is not known yet
                        self._batch, self._batch_sign = self._waiting, self._sign
                        self._waiting, self._sign = [], False
                self._store_batch()

    def _store_batch(self) -> None:
        for _ in range(_TRIES):
            try:
                stored = self._append(self._batch, sign=self._batch_sign)
            except Fenced:
                self._forget()
                raise
            if stored:
                self._batch = []
                return
        raise StoreError("the audit trail grows faster than this process can write to it")

    def forget(self) -> None:
        """Drop what was noted and is not durable: what it speaks of never came to be."""
        with self._writing:
            self._forget()

    def _forget(self) -> None:
        with self._noting:
            self._batch, self._waiting, self._sign = [], [], False

    def _append(self, waiting: list[tuple[str, dict[str, Any]]], *, sign: bool) -> bool:
        """Chain and store entries; return False where others were there first."""
        head, records = self._head, []
        for kind, fields in waiting:
            record, head = entry(head, kind, fields)
            records.append(record)
        if self._key is not None and (sign or self._unsigned + len(records) >= EVERY):
            record, head = entry(head, CHECKPOINT, checkpoint(head, self._key))
            records.append(record)
        try:
            self._store.append_log(LOG, records, expect=self._head.length)
        except Conflict:
            there = self._store.read_log(LOG, start=self._head.length)
            known = list(there[: len(records)]) == records  # an attempt that was not in vain
            self._catch_up(there)
            return known
        self._take(records)
        return True

    def _catch_up(self, there: Any = None) -> None:
        self._take(self._store.read_log(LOG, start=self._head.length) if there is None else there)

    def _take(self, records: Any) -> None:
        head, unsigned = self._head, self._unsigned
        for record in records:
            head = follow(head, record)
            unsigned = 0 if record.kind == CHECKPOINT else unsigned + 1
        self._head, self._unsigned = head, unsigned


def open_trail(
    folder: Path, *, key: SigningKey | None, now: Callable[[], float]
) -> tuple[Trail, SqliteRunStore]:
    """Open or begin the trail beside the runs of a folder; return it, and what is to be closed.

    Args:
        folder: The folder of the runs.
        key: Signs checkpoints; None where this process has no such key.
        now: Seconds since 1970.

    Raises:
        TamperedAudit: The trail that is there was changed.
        StoreError: It cannot be read or made.
    """
    from choral.stores.sqlite import SqliteRunStore  # takes half a second

    path = folder / DATABASE
    store = SqliteRunStore(path)
    try:
        return Trail(store, key=key, now=now), store
    except TamperedAudit as error:
        store.close()
        raise TamperedAudit(
            f"{path}: {error.message}",
            hint="`choral audit verify` says all that is wrong; restore it from a copy",
        ) from None


def read_trail(folder: Path) -> list[Record]:
    """Return the entries of the trail beside the runs of a folder.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    from choral.stores.sqlite import SqliteRunStore

    path = folder / DATABASE
    if not path.exists():
        raise StoreError(f"there is no audit trail in {folder}", hint="a coordinator writes it")
    store = SqliteRunStore(path)
    try:
        return list(store.read_log(LOG))
    finally:
        store.close()
