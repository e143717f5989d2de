"""Runs and logs in SQLite or PostgreSQL: the same statements, one transaction for each call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from choral.core.canonical import canonical_json
from choral.core.errors import Conflict, Fenced, NothingToResume, RunExists
from choral.core.ports import Lease, Record
from choral.stores.engines import Backend, backend_of
from choral.stores.grouped import GroupedWrites
from choral.stores.leases import check_seconds
from choral.stores.schema import prepare
from choral.stores.tables import EVENTS, FIRST, LOG_RECORDS, RUNS

T = TypeVar("T")


def open_database(url: str) -> Database:
    """Open a database; its tables are made, or brought to this version, where need be.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or
            `postgresql://user:password@host/name`. A PostgreSQL database or schema is Choral's own.

    Raises:
        ConfigError: The URL names no database.
        MissingExtra: The driver for PostgreSQL is not installed.
        StoreUnavailable: It cannot be reached now.
        StoreError: It is no database, or one of a newer version.
    """
    return Database(backend_of(url))


class Database:
    """A durable `SharedRunStore` and `LogStore`, for several threads and processes at once.

    On PostgreSQL leases go by the server's clock, on SQLite by that of this machine.

    Args:
        backend: The connections.
        now: Seconds since 1970, for leases on SQLite.
    """

    def __init__(self, backend: Backend, *, now: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._engine = backend.engine
        self._clock = now
        self._grouped = None if backend.is_postgres else GroupedWrites(backend)
        try:
            with backend.transaction(write=True) as db:
                prepare(db, name=backend.name)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._backend.name!r})"

    @property
    def backend(self) -> Backend:
        """The connections, for what belongs beside the tables."""
        return self._backend

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        with self._backend.transaction(write=False) as db:
            return work(db)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do some work in a transaction; on return it is durable."""
        if self._grouped is not None:
            return self._grouped(work)
        with self._backend.transaction(write=True) as db:
            return work(db)

    # --- runs -------------------------------------------------------------------------------------

    def create(self, run_id: str, header: dict[str, Any]) -> None:
        """Make a run."""
        row = RUNS.insert().values(run_id=run_id, header=_text(header), epoch=0)
        try:
            self._write(lambda db: db.execute(row))
        except sa.exc.IntegrityError:
            raise RunExists(f"run `{run_id}` exists in {self._backend.name}") from None

    def header(self, run_id: str) -> dict[str, Any]:
        """Return a run's header."""
        header: dict[str, Any] = json.loads(self._read(lambda db: self._header(db, run_id)))
        return header

    def _header(self, db: sa.Connection, run_id: str) -> str:
        text = db.execute(sa.select(RUNS.c.header).where(RUNS.c.run_id == run_id)).scalar()
        if text is None:
            raise NothingToResume(f"no run `{run_id}` in {self._backend.name}")
        return str(text)

    def runs(self) -> Sequence[str]:
        """Return the ids of all runs, oldest first."""
        rows = sa.select(RUNS.c.run_id).order_by(RUNS.c.number)
        return self._read(lambda db: tuple(db.execute(rows).scalars()))

    def append(
        self,
        lease: Lease,
        records: Iterable[Record],
        *,
        expect: int | None = None,
        forget: str | None = None,
    ) -> int:
        """Append records in one transaction, fenced by the lease's epoch."""
        lines = _lines(records)

        def work(db: sa.Connection) -> int:
            _check(db, lease)
            count = _count(db, EVENTS, EVENTS.c.run_id == lease.run_id)
            if expect not in (None, count):
                raise Conflict(f"run `{lease.run_id}` holds {count} records, not {expect}")
            if forget is not None and lines:
                gone = (EVENTS.c.run_id == lease.run_id) & (EVENTS.c.kind == forget)
                db.execute(EVENTS.delete().where(gone))
            _insert(db, EVENTS, lines, start=count, run_id=lease.run_id)
            return count + len(lines)

        return self._write(work)

    def read(self, run_id: str) -> Iterator[Record]:
        """Return the records of a run."""

        def work(db: sa.Connection) -> Sequence[Record]:
            self._header(db, run_id)
            return _records(db, EVENTS, EVENTS.c.run_id == run_id)

        return iter(self._read(work))

    # --- leases -----------------------------------------------------------------------------------

    def acquire(self, run_id: str) -> Lease:
        """Take a run over."""
        return self._write(lambda db: self._take(db, run_id, owner=None, until=sa.literal(0.0)))

    def claim(self, run_id: str, *, owner: str, seconds: float) -> Lease | None:
        """Take a run where nobody else's lease lasts."""
        until = self._now() + check_seconds(seconds)
        row = sa.select(RUNS.c.owner, (RUNS.c.lease_until > self._now()).label("lasts"))

        def work(db: sa.Connection) -> Lease | None:
            # Whoever has locked the row is about to take the run, or is writing to it.
            mine = row.where(RUNS.c.run_id == run_id).with_for_update(skip_locked=True)
            found = db.execute(mine).one_or_none()
            if found is None:
                self._header(db, run_id)
                return None
            if found.lasts and found.owner != owner:
                return None
            return self._take(db, run_id, owner=owner, until=until)

        return self._write(work)

    def renew(self, lease: Lease, *, seconds: float) -> None:
        """Let a lease last longer."""
        until = self._now() + check_seconds(seconds)

        def work(db: sa.Connection) -> None:
            _check(db, lease)
            db.execute(_run(lease.run_id).values(lease_until=until))

        self._write(work)

    def release(self, lease: Lease) -> None:
        """End a lease."""
        over = _run(lease.run_id).where(RUNS.c.epoch == lease.epoch)
        values = {"epoch": RUNS.c.epoch + 1, "owner": None, "lease_until": 0.0}
        self._write(lambda db: db.execute(over.values(values)))

    def claimable(self) -> Sequence[str]:
        """Return the runs that nobody's lease lasts for, oldest first."""
        rows = sa.select(RUNS.c.run_id).where(RUNS.c.lease_until <= self._now())
        return self._read(lambda db: tuple(db.execute(rows.order_by(RUNS.c.number)).scalars()))

    def _take(
        self, db: sa.Connection, run_id: str, *, owner: str | None, until: sa.ColumnElement[float]
    ) -> Lease:
        taken = _run(run_id).values(epoch=RUNS.c.epoch + 1, owner=owner, lease_until=until)
        epoch = db.execute(taken.returning(RUNS.c.epoch)).scalar()
        if epoch is None:
            raise NothingToResume(f"no run `{run_id}` in {self._backend.name}")
        return Lease(run_id, epoch)

    def _now(self) -> sa.ColumnElement[float]:
        """Return the time: of the server where there is one, as machines' clocks differ."""
        if self._backend.is_postgres:
            return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.literal(self._clock(), sa.Double)

    # --- logs -------------------------------------------------------------------------------------

    def logs(self) -> Sequence[str]:
        """Return the names of all logs that hold a record, sorted."""
        names = sa.select(LOG_RECORDS.c.log).where(FIRST)
        return tuple(sorted(self._read(lambda db: db.execute(names).scalars().all())))

    def read_log(self, log: str, *, start: int = 0) -> Sequence[Record]:
        """Return the records of a log."""
        wanted = (LOG_RECORDS.c.log == log) & (LOG_RECORDS.c.seq >= start)
        return self._read(lambda db: _records(db, LOG_RECORDS, wanted))

    def append_log(self, log: str, records: Sequence[Record], *, expect: int) -> int:
        """Append records where the log holds as many as the writer expects."""
        return self._append_log(log, records, expect=expect, lease=None)

    def fenced(self, lease: Callable[[], Lease | None]) -> FencedLogs:
        """Return the logs for a writer that may write only while it holds a lease.

        Args:
            lease: Says which one it holds, as far as it knows; None where it needs none.
        """
        return FencedLogs(self, lease)

    def _append_log(
        self, log: str, records: Sequence[Record], *, expect: int, lease: Lease | None
    ) -> int:
        lines = _lines(records)

        def work(db: sa.Connection) -> int:
            if lease is not None:
                _check(db, lease)
            count = _count(db, LOG_RECORDS, LOG_RECORDS.c.log == log)
            if count != expect:
                raise Conflict(f"log `{log}` holds {count} records, not {expect}")
            _insert(db, LOG_RECORDS, lines, start=count, log=log)
            return count + len(lines)

        try:
            return self._write(work)
        except sa.exc.IntegrityError:  # another one was quicker by a moment
            raise Conflict(f"log `{log}` holds more than {expect} records") from None

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


class FencedLogs:
    """A `LogStore` in which every append is fenced by the epoch of a lease, in one transaction.

    Args:
        database: Where the logs and the lease are.
        lease: Says which lease the writer holds; None where it needs none.
    """

    def __init__(self, database: Database, lease: Callable[[], Lease | None]) -> None:
        self._database = database
        self._lease = lease

    def logs(self) -> Sequence[str]:
        """Return the names of all logs that hold a record, sorted."""
        return self._database.logs()

    def read_log(self, log: str, *, start: int = 0) -> Sequence[Record]:
        """Return the records of a log."""
        return self._database.read_log(log, start=start)

    def append_log(self, log: str, records: Sequence[Record], *, expect: int) -> int:
        """Append records where the log holds as many as the writer expects.

        Raises:
            Conflict: It holds another number; nothing was written.
            Fenced: Someone took the run over that the lease is for; nothing was written.
        """
        return self._database._append_log(log, records, expect=expect, lease=self._lease())


def _text(value: dict[str, Any]) -> str:
    return canonical_json(value).decode()


def _lines(records: Iterable[Record]) -> list[dict[str, Any]]:
    return [{"kind": record.kind, "body": _text(record.body)} for record in records]


def _run(run_id: str) -> sa.Update:
    return RUNS.update().where(RUNS.c.run_id == run_id)


def _check(db: sa.Connection, lease: Lease) -> None:
    """Lock the run's row for as long as the transaction lasts, and look at its epoch."""
    row = sa.select(RUNS.c.epoch).where(RUNS.c.run_id == lease.run_id)
    if db.execute(row.with_for_update()).scalar() != lease.epoch:
        raise Fenced(f"run `{lease.run_id}` was taken over by another process")


def _count(db: sa.Connection, table: sa.Table, rows: sa.ColumnElement[bool]) -> int:
    last = db.execute(sa.select(sa.func.max(table.c.seq)).where(rows)).scalar()
    return 0 if last is None else int(last) + 1


def _insert(
    db: sa.Connection, table: sa.Table, lines: list[dict[str, Any]], *, start: int, **key: str
) -> None:
    rows = [{**key, "seq": start + at, **line} for at, line in enumerate(lines)]
    if rows:
        db.execute(table.insert(), rows)


def _records(db: sa.Connection, table: sa.Table, rows: sa.ColumnElement[bool]) -> Sequence[Record]:
    found = db.execute(sa.select(table.c.kind, table.c.body).where(rows).order_by(table.c.seq))
    return tuple(Record(kind, json.loads(body)) for kind, body in found)
