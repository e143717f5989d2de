"""The database of runs: how it is opened, and what it refuses."""

import sqlite3

import pytest

from choral.core.errors import StoreError
from choral.core.ports import Record
from choral.stores.sqlite import SqliteRunStore


def test_every_connection_is_durable(tmp_path):
    store = SqliteRunStore(tmp_path / "run.db")
    with store._engine.begin() as db:
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "run.db").write_bytes(b"nonsense" * 200)
    with pytest.raises(StoreError, match="is not a run database"):
        SqliteRunStore(tmp_path / "run.db")


def test_another_format_is_refused(tmp_path):
    SqliteRunStore(tmp_path / "run.db").close()
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("UPDATE choral_version SET version_num = '99'")
    with pytest.raises(StoreError, match="format 99, this version reads 2"):
        SqliteRunStore(tmp_path / "run.db")


def test_a_log_survives_a_second_opening(tmp_path):
    store = SqliteRunStore(tmp_path / "run.db")
    store.create("a", {})
    lease = store.acquire("a")
    for n in range(3):
        store.append(lease, [Record("Noted", {"n": n})])
    store.close()
    again = SqliteRunStore(tmp_path / "run.db")
    assert [r.body["n"] for r in again.read("a")] == [0, 1, 2]


def test_a_full_disk_is_an_error_of_ours(tmp_path):
    store = SqliteRunStore(tmp_path / "run.db")
    store.create("a", {})
    lease = store.acquire("a")
    with store._engine.connect() as db:
        db.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="full"):
        store.append(lease, [Record("a", {"x": "y" * 100_000})])
