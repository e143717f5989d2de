"""Group commit: threads share a transaction, and what one of them breaks is its own."""

import threading

import pytest
import sqlalchemy as sa

from choral.core.errors import StoreError
from choral.stores.engines import sqlite_backend
from choral.stores.grouped import GroupedWrites


@pytest.fixture
def backend(tmp_path):
    backend = sqlite_backend(tmp_path / "a.db")
    with backend.transaction(write=True) as db:
        db.exec_driver_sql("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    yield backend
    backend.engine.dispose()


def rows(backend):
    with backend.transaction(write=False) as db:
        return [n for (n,) in db.exec_driver_sql("SELECT n FROM t ORDER BY n")]


def together(backend, works):
    """Do the works in one group: they queue while a first one holds the database."""
    grouped, started, go = GroupedWrites(backend), threading.Event(), threading.Event()
    commits, outcomes = [], {}
    sa.event.listen(backend.engine, "commit", commits.append)

    def first(db):
        started.set()
        go.wait(10)

    def call(name, work):
        try:
            outcomes[name] = grouped(work)
        except Exception as error:
            outcomes[name] = error

    holder = threading.Thread(target=call, args=("first", first))
    holder.start()
    started.wait(10)
    others = [threading.Thread(target=call, args=item) for item in works.items()]
    for thread in others:
        thread.start()
    while len(grouped._queue) < len(works):
        threading.Event().wait(0.001)
    go.set()
    for thread in [holder, *others]:
        thread.join(10)
    return outcomes, len(commits)


def insert(n):
    def work(db):
        db.exec_driver_sql("INSERT INTO t VALUES (?)", (n,))
        return n * 10

    return work


def test_those_who_wait_share_one_commit(backend):
    outcomes, commits = together(backend, {n: insert(n) for n in range(5)})
    assert {n: outcomes[n] for n in range(5)} == {n: n * 10 for n in range(5)}
    assert commits == 2  # the first one's and theirs
    assert rows(backend) == [0, 1, 2, 3, 4]


def test_what_fails_takes_nothing_of_others_along(backend):
    def broken(db):
        insert(7)(db)
        raise ZeroDivisionError

    works = {"a": insert(1), "b": broken, "c": insert(2), "d": insert(3)}
    outcomes, commits = together(backend, works)
    assert isinstance(outcomes["b"], ZeroDivisionError)
    assert rows(backend) == [1, 2, 3]
    assert commits == 2


def test_a_broken_constraint_is_its_own_threads_alone(backend):
    insert_twice = {"a": insert(1), "b": insert(1), "c": insert(2)}
    outcomes, _ = together(backend, insert_twice)
    failed = [e for e in outcomes.values() if isinstance(e, sa.exc.IntegrityError)]
    assert len(failed) == 1
    assert rows(backend) == [1, 2]


def test_a_transaction_that_is_undone_fails_for_all(backend):
    """As on a full disk: SQLite undoes everything, also what has succeeded in it."""

    def undo(db):
        db.exec_driver_sql("ROLLBACK")
        raise ZeroDivisionError

    outcomes, _ = together(backend, {"a": insert(1), "b": undo, "c": insert(2)})
    for name in "abc":
        assert isinstance(outcomes[name], (ZeroDivisionError, StoreError)), outcomes
    assert rows(backend) == []


def test_an_interrupted_writer_leaves_the_turn_to_others(backend):
    grouped = GroupedWrites(backend)

    def interrupted(db):
        insert(1)(db)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grouped(interrupted)
    assert grouped(insert(2)) == 20
    assert rows(backend) == [2]
