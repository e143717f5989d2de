"""Runs and their logs in SQLite: WAL, synchronous FULL, one transaction per `append`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from choral.core.canonical import canonical_json
from choral.core.errors import Fenced, NothingToResume, RunExists, StoreError
from choral.core.ports import Lease, Record

FORMAT = 1
"""Version of the tables; another one is refused."""

_META = sa.MetaData()
_FORMAT = sa.Table("format", _META, sa.Column("version", sa.Integer, nullable=False))
_RUNS = sa.Table(
    "runs",
    _META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, unique=True, nullable=False),
    sa.Column("header", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
)
_EVENTS = sa.Table(
    "events",
    _META,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


def _configure(connection: Any, _: Any) -> None:
    """Set a new connection up for durability; transactions are begun by hand."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class SqliteRunStore:
    """A durable `RunStore` in one file.

    Args:
        path: The database file; its folder must exist.

    Raises:
        StoreError: The file is no database of this version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa_event.listen(self._engine, "connect", _configure)
        sa_event.listen(
            self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
        try:
            self._prepare()
        except sa.exc.DatabaseError as error:
            self.close()
            raise StoreError(f"{path} is not a run database: {error.orig}") from None

    def _prepare(self) -> None:
        with self._engine.begin() as db:
            _META.create_all(db)
            version = db.execute(sa.select(_FORMAT.c.version)).scalar()
            if version is None:
                db.execute(_FORMAT.insert().values(version=FORMAT))
            elif version != FORMAT:
                raise StoreError(
                    f"{self._path} has format {version}, this version reads {FORMAT}",
                    hint="use the version of Choral that wrote it",
                )

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """Begin a transaction; a full disk or a broken file is an error of ours."""
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.IntegrityError:
            raise
        except sa.exc.DatabaseError as error:
            raise StoreError(f"{self._path}: {error.orig}") from None

    def create(self, run_id: str, header: dict[str, Any]) -> None:
        """Make a run."""
        try:
            with self._begin() as db:
                db.execute(
                    _RUNS.insert().values(
                        run_id=run_id, header=canonical_json(header).decode(), epoch=0
                    )
                )
        except sa.exc.IntegrityError:
            raise RunExists(f"run `{run_id}` exists in {self._path}") from None

    def header(self, run_id: str) -> dict[str, Any]:
        """Return a run's header."""
        with self._begin() as db:
            text = db.execute(sa.select(_RUNS.c.header).where(_RUNS.c.run_id == run_id)).scalar()
        if text is None:
            raise NothingToResume(f"no run `{run_id}` in {self._path}")
        header: dict[str, Any] = json.loads(text)
        return header

    def runs(self) -> Sequence[str]:
        """Return the ids of all runs, oldest first."""
        with self._begin() as db:
            return tuple(db.execute(sa.select(_RUNS.c.run_id).order_by(_RUNS.c.number)).scalars())

    def acquire(self, run_id: str) -> Lease:
        """Take a run over."""
        with self._begin() as db:
            epoch = db.execute(
                _RUNS.update()
                .where(_RUNS.c.run_id == run_id)
                .values(epoch=_RUNS.c.epoch + 1)
                .returning(_RUNS.c.epoch)
            ).scalar()
        if epoch is None:
            raise NothingToResume(f"no run `{run_id}` in {self._path}")
        return Lease(run_id, epoch)

    def append(self, lease: Lease, records: Iterable[Record], *, forget: str | None = None) -> int:
        """Append records in one transaction, fenced by the lease's epoch."""
        with self._begin() as db:
            epoch = db.execute(
                sa.select(_RUNS.c.epoch).where(_RUNS.c.run_id == lease.run_id)
            ).scalar()
            if epoch != lease.epoch:
                raise Fenced(f"run `{lease.run_id}` was taken over by another process")
            last = db.execute(
                sa.select(sa.func.max(_EVENTS.c.seq)).where(_EVENTS.c.run_id == lease.run_id)
            ).scalar()
            count = 0 if last is None else last + 1
            rows = [
                {
                    "run_id": lease.run_id,
                    "seq": count + offset,
                    "kind": record.kind,
                    "body": canonical_json(record.body).decode(),
                }
                for offset, record in enumerate(records)
            ]
            if rows and forget is not None:
                db.execute(
                    _EVENTS.delete().where(
                        _EVENTS.c.run_id == lease.run_id, _EVENTS.c.kind == forget
                    )
                )
            if rows:
                db.execute(_EVENTS.insert(), rows)
        return count + len(rows)

    def read(self, run_id: str) -> Iterator[Record]:
        """Return the records of a run."""
        self.header(run_id)
        with self._begin() as db:
            rows = db.execute(
                sa.select(_EVENTS.c.kind, _EVENTS.c.body)
                .where(_EVENTS.c.run_id == run_id)
                .order_by(_EVENTS.c.seq)
            ).all()
        return iter([Record(kind, json.loads(body)) for kind, body in rows])

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
