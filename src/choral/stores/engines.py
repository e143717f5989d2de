"""Connections to SQLite and PostgreSQL, set up for durability, and what their errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from choral.core.errors import ConfigError, MissingExtra, StoreError, StoreUnavailable

PRAGMAS = ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_HINT = (
    "`sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`"
)
_FULL = ("53100", "58030")  # SQLSTATE disk_full and io_error: trying again does not help
_READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction: a standby; the primary comes back
_POSTGRES_SETTINGS = (
    "SET lock_timeout = '10s'",
    # A process that was stopped in a transaction must not hold its locks when its lease is over.
    "SET idle_in_transaction_session_timeout = '8s'",
    # What `append` has returned is on disk, whatever the server's default is.
    """SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'""",
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A database and how to talk about it.

    Attributes:
        engine: Its connections.
        name: What errors call it; without user and password.
    """

    engine: sa.Engine = field(repr=False)  # its URL may hold a password
    name: str

    @property
    def is_postgres(self) -> bool:
        """Whether it is PostgreSQL, else SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """Give a connection in a transaction, and commit it.

        A broken constraint stays an `IntegrityError` for the caller to interpret.

        Raises:
            StoreUnavailable: The database is out of reach, or busy for too long.
            StoreError: It cannot do what was asked, such as on a full disk.
        """
        try:
            with self.engine.connect().execution_options(write=write) as db, db.begin():
                yield db
        except sa.exc.SQLAlchemyError as error:
            raise self.meaning(error) from None

    def meaning(self, error: Exception) -> Exception:
        """Return the error of ours that a driver's error stands for; another one as it is.

        A broken constraint stays an `IntegrityError`: what it means depends on the statement.
        """
        if isinstance(error, sa.exc.SQLAlchemyError) and not isinstance(
            error, sa.exc.IntegrityError
        ):
            return self._meaning(error)
        return error

    def _meaning(self, error: sa.exc.SQLAlchemyError) -> StoreError:
        driver = getattr(error, "orig", None)
        words = next(iter(str(driver or error).strip().splitlines()), type(error).__name__)
        gone = _is_postgres_gone if self.is_postgres else _is_sqlite_busy
        if isinstance(error, sa.exc.TimeoutError) or gone(error, driver):
            return StoreUnavailable(f"{self.name} cannot be used now: {words}", hint="try again")
        if getattr(driver, "sqlite_errorname", "") == "SQLITE_NOTADB":
            return StoreError(f"{self.name} is not a run database: {words}")
        return StoreError(f"{self.name}: {words}")


def _is_sqlite_busy(_: sa.exc.SQLAlchemyError, driver: Any) -> bool:
    return getattr(driver, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _is_postgres_gone(error: sa.exc.SQLAlchemyError, driver: Any) -> bool:
    state = getattr(driver, "sqlstate", None)
    if state in _FULL:
        return False
    if getattr(error, "connection_invalidated", False) or state == _READ_ONLY:
        return True
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)


def backend_of(url: str) -> Backend:
    """Return the database that a URL names; nothing is connected yet.

    Raises:
        ConfigError: The URL names none, or one of another kind.
        MissingExtra: The driver for PostgreSQL is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme not in (*_SQLITE, *_POSTGRES):
        shown = f"`{scheme}:`" if ":" in url else "it has no scheme"
        raise ConfigError(f"the URL of a database is of no known kind: {shown}", hint=_HINT)
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # its message may repeat the password
        raise ConfigError(f"a `{scheme}:` URL that cannot be read", hint=_HINT) from None
    return _from_sqlite_url(parsed) if scheme in _SQLITE else _postgres(parsed)


def _from_sqlite_url(url: sa.URL) -> Backend:
    if not url.database or url.database == ":memory:" or url.host or url.query:
        raise ConfigError("the URL of an SQLite database names no file, or more", hint=_HINT)
    return sqlite_backend(Path(url.database))


def sqlite_backend(path: Path) -> Backend:
    """Return the SQLite database in a file; a new file is readable by its owner alone."""
    file = path.absolute()  # a task may change the working folder
    if not file.exists():
        try:
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(
                f"cannot make {path}: {error.strerror}", hint="its folder must exist"
            ) from None
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(file)), hide_parameters=True)
    sa_event.listen(engine, "connect", _set_up_sqlite)
    sa_event.listen(engine, "begin", _begin_sqlite)
    return Backend(engine, str(path))


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Set a new connection up for durability; transactions are begun by hand."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer waits for the one before; who only reads sees the database as it was."""
    write = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _postgres(url: sa.URL) -> Backend:
    try:
        import psycopg  # noqa: F401  # SQLAlchemy would name it without saying how to get it
    except ImportError:
        raise MissingExtra(
            "PostgreSQL needs `psycopg`, which is not installed",
            hint="pip install 'choral[postgres]'",
        ) from None
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="READ COMMITTED",  # rows are locked by hand
        hide_parameters=True,
        connect_args={} if "connect_timeout" in url.query else {"connect_timeout": 10},
    )
    sa_event.listen(engine, "connect", _set_up_postgres)
    host = url.host or url.query.get("host") or "localhost"
    port = f":{url.port}" if url.port else ""
    return Backend(engine, f"postgresql://{host}{port}/{url.database or ''}")


def _set_up_postgres(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        for statement in _POSTGRES_SETTINGS:
            cursor.execute(statement)
    connection.commit()
