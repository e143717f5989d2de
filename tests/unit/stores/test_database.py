"""How databases are opened and named, what their errors mean, and how old ones are migrated."""

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from choral.core.errors import ConfigError, MissingExtra, StoreError, StoreUnavailable
from choral.core.ports import Record
from choral.stores.database import Database, open_database
from choral.stores.engines import backend_of, sqlite_backend
from choral.stores.tables import METADATA, VERSION_TABLE

on_postgres = pytest.mark.xdist_group("postgres")
on_both = pytest.mark.parametrize(
    "place", ["sqlite_url", pytest.param("postgres_url", marks=on_postgres)]
)
SECRET = "hunter-two"  # noqa: S105  # nobody's

# What the first format was, to the letter: files like this exist.
FORMAT_1 = """
CREATE TABLE format (version INTEGER NOT NULL);
CREATE TABLE runs (
    number INTEGER NOT NULL, run_id TEXT NOT NULL, header TEXT NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (number), UNIQUE (run_id)
);
CREATE TABLE events (
    run_id TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (run_id, seq), FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO format VALUES (1);
INSERT INTO runs VALUES (1, 'b', '{"seed":7}', 3), (2, 'a', '{}', 0);
INSERT INTO events VALUES ('b', 0, 'Started', '{"n":0}'), ('b', 1, 'Noted', '{"n":1}');
"""


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/run.db"


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "run.db"
    with sqlite3.connect(path) as db:
        db.executescript(FORMAT_1)
    return path


# --- URLs -----------------------------------------------------------------------------------------


def test_a_file_is_named_relative_or_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = open_database("sqlite:///relative.db")
    monkeypatch.chdir("/")  # as a task may do
    database.create("a", {})
    database.close()
    again = open_database(f"sqlite:////{tmp_path}/relative.db")
    assert again.runs() == ("a",)
    again.close()
    assert (tmp_path / "relative.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://user:hunter-two@host/db", "`mysql:`"),
        ("hunter-two.db", "no scheme"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///a.db?mode=hunter-two", "names no file"),
        ("postgresql://user:hunter-two@host:port/db", "cannot be read"),
        ("postgresql+asyncpg://user:hunter-two@host/db", "`postgresql+asyncpg:`"),
    ],
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url, words):
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    assert words in caught.value.message
    assert caught.value.hint
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter-two@127.0.0.1:1/name",
        "postgres://127.0.0.1:1/name?user=u&password=hunter-two&connect_timeout=3",
    ],
)
def test_a_server_that_is_away_is_named_without_its_password(url):
    assert SECRET not in repr(backend_of(url))
    with pytest.raises(StoreUnavailable) as caught:
        open_database(url)
    assert caught.value.retryable
    assert "postgresql://127.0.0.1:1/name" in caught.value.message
    assert SECRET not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"choral\[postgres\]"):
        open_database("postgresql://host/name")


@on_postgres
def test_a_database_says_what_it_is_and_no_more(postgres_url):
    database = open_database(postgres_url)
    assert "search_path" not in repr(database)
    assert repr(database).startswith("Database('postgresql://")
    database.close()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match="cannot make"):
        open_database(f"sqlite:///{tmp_path}/nowhere/run.db")


# --- errors ---------------------------------------------------------------------------------------


@on_postgres
def test_a_lost_connection_may_be_tried_again(postgres_url, postgres_server):
    database = open_database(postgres_url)
    database.create("a", {})
    lease = database.acquire("a")
    with database._engine.connect() as db:
        pid = db.execute(sa.select(sa.func.pg_backend_pid())).scalar()
    postgres_server.psql(f"SELECT pg_terminate_backend({pid}, 5000);")
    with pytest.raises(StoreUnavailable):
        database.append(lease, [Record("Noted", {})], expect=0)
    assert database.append(lease, [Record("Noted", {})], expect=0) == 1
    database.close()


@on_postgres
def test_who_writes_now_is_not_waited_for_by_a_claim(postgres_url):
    one, two = open_database(postgres_url), open_database(postgres_url)
    one.create("a", {})
    with one.backend.transaction(write=True) as db:
        db.execute(sa.text("SELECT 1 FROM runs WHERE run_id = 'a' FOR UPDATE"))
        assert two.claim("a", owner="two", seconds=600) is None
    assert two.claim("a", owner="two", seconds=600) is not None
    one.close()
    two.close()


@on_postgres
def test_what_was_appended_is_on_disk_whatever_the_server_does_by_default(postgres_url):
    database = open_database(
        postgres_url.replace("&options=", "&options=-csynchronous_commit=off+")
    )
    with database.backend.transaction(write=False) as db:
        assert db.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
    database.close()


@pytest.mark.parametrize(
    ("name", "away"),
    [
        ("DiskFull", False),
        ("IoError", False),
        ("UndefinedTable", False),
        ("AdminShutdown", True),
        ("CannotConnectNow", True),
        ("TooManyConnections", True),
        ("LockNotAvailable", True),
        ("DeadlockDetected", True),
        ("ReadOnlySqlTransaction", True),
    ],
)
def test_what_an_error_of_postgresql_means(name, away):
    from psycopg import errors

    backend = backend_of("postgresql://host/name")
    driver = getattr(errors, name)("words\nmore words")
    branch = next(
        kind
        for kind in type(driver).__mro__
        if hasattr(sa.exc, kind.__name__) and kind is not driver
    )
    meant = backend.meaning(getattr(sa.exc, branch.__name__)("SELECT", {}, driver))
    assert isinstance(meant, StoreError)
    assert isinstance(meant, StoreUnavailable) is away
    assert "words" in meant.message
    assert "more words" not in meant.message


def test_a_file_that_another_process_holds_may_be_tried_again(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/run.db")
    with database._engine.connect() as db:  # the one connection that the next call takes
        db.exec_driver_sql("PRAGMA busy_timeout = 1")
        db.rollback()
    other = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        database.create("a", {})
    assert database.runs() == ()  # reading waits for nobody
    other.execute("ROLLBACK")
    database.create("a", {})
    other.close()
    database.close()


# --- leases ---------------------------------------------------------------------------------------


def test_a_lease_ends_when_its_time_is_over(tmp_path):
    time = [100.0]
    database = Database(sqlite_backend(tmp_path / "run.db"), now=lambda: time[0])
    database.create("a", {})
    database.claim("a", owner="one", seconds=10)
    time[0] = 109.9
    assert database.claim("a", owner="two", seconds=10) is None
    time[0] = 110.0
    assert database.claimable() == ("a",)
    assert database.claim("a", owner="two", seconds=10) is not None
    database.close()


@on_postgres
def test_leases_go_by_the_servers_clock(postgres_url):
    fast, slow = (Database(backend_of(postgres_url), now=lambda t=t: t) for t in (1e12, 0.0))
    fast.create("a", {})
    slow.claim("a", owner="one", seconds=600)
    assert fast.claim("a", owner="two", seconds=600) is None
    fast.close()
    slow.close()


# --- formats --------------------------------------------------------------------------------------


def columns(database):
    inspector = sa.inspect(database._engine)
    return {
        table: sorted(
            (c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)
        )
        for table in inspector.get_table_names()
    }


def differences(database):
    """What Alembic finds between a database and the tables that the code declares."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database._engine.connect() as db:
        context = MigrationContext.configure(db, opts={"version_table": VERSION_TABLE})
        return compare_metadata(context, METADATA)


def test_a_file_of_the_first_format_is_adopted_without_loss(old_file, tmp_path):
    database = open_database(f"sqlite:///{old_file}")
    assert database.runs() == ("b", "a")
    assert database.header("b") == {"seed": 7}
    assert list(database.read("b")) == [Record("Started", {"n": 0}), Record("Noted", {"n": 1})]
    lease = database.claim("b", owner="one", seconds=600)
    assert lease.epoch == 4
    assert database.append(lease, [Record("Noted", {"n": 2})], expect=2) == 3
    fresh = open_database(f"sqlite:///{tmp_path}/fresh.db")
    assert columns(database) == columns(fresh)
    assert differences(database) == differences(fresh) == []
    with database.backend.transaction(write=False) as db:
        assert db.exec_driver_sql("SELECT version FROM format").scalar() == 2  # old ones refuse it
    database.close()
    fresh.close()
    open_database(f"sqlite:///{old_file}").close()


@on_postgres
def test_migrations_lead_to_the_same_tables_on_postgresql(postgres_url):
    backend = backend_of(postgres_url)
    with backend.transaction(write=True) as db:
        for statement in FORMAT_1.split(";")[:-1]:
            db.exec_driver_sql(statement)
    backend.engine.dispose()
    database = open_database(postgres_url)
    assert database.runs() == ("b", "a")
    assert differences(database) == []
    migrated = columns(database)
    with database.backend.transaction(write=True) as db:
        for table in migrated:
            db.exec_driver_sql(f'DROP TABLE "{table}" CASCADE')
    database.close()
    fresh = open_database(postgres_url)
    assert columns(fresh) == migrated
    assert differences(fresh) == []
    fresh.close()


def test_a_migration_that_fails_changes_nothing(old_file):
    with sqlite3.connect(old_file) as db:
        db.execute("CREATE TABLE log_records (x)")  # in the way of the second step
    with pytest.raises(StoreError, match="log_records"):
        open_database(f"sqlite:///{old_file}")
    with sqlite3.connect(old_file) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert [row[1] for row in db.execute("PRAGMA table_info(runs)")][-1] == "epoch"
    assert VERSION_TABLE not in names


@on_both
def test_a_newer_format_is_refused(place, request):
    url = request.getfixturevalue(place)
    database = open_database(url)
    with database.backend.transaction(write=True) as db:
        db.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '3'")  # noqa: S608
    database.close()
    with pytest.raises(StoreError, match="format 3, this version reads 2") as caught:
        open_database(url)
    assert "version of Choral" in caught.value.hint


@on_postgres
def test_tables_of_another_program_are_left_alone(postgres_url):
    backend = backend_of(postgres_url)
    with backend.transaction(write=True) as db:
        db.exec_driver_sql("CREATE TABLE runs (x INTEGER)")
    backend.engine.dispose()
    with pytest.raises(StoreError, match="already exists"):
        open_database(postgres_url)


@on_both
def test_several_may_open_a_database_at_once(place, request):
    url = request.getfixturevalue(place)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_database(url), range(4)))
    found[0].create("a", {})
    assert [database.runs() for database in found] == [("a",)] * 4
    for database in found:
        database.close()


def test_several_may_migrate_a_file_at_once(old_file):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_database(f"sqlite:///{old_file}"), range(4)))
    assert [database.runs() for database in found] == [("b", "a")] * 4
    for database in found:
        database.close()
