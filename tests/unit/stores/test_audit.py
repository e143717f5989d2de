"""The writer of the trail: durable, shared, and checked when it is opened."""

import sqlite3
from datetime import UTC, datetime

import pytest

from choral.core.errors import Fenced, StoreError, StoreUnavailable, TamperedAudit
from choral.crypto.signatures import SigningKey
from choral.federation.audit import CHECKPOINT, LOG, check
from choral.stores.audit import DATABASE, EVERY, Trail, open_trail, read_trail
from choral.stores.database import open_database
from choral.stores.memory import MemoryLogStore
from choral.system import SystemRand

KEY = SigningKey.random(SystemRand())
NOW = 1_700_000_000.0


def make(store, key=KEY):
    return Trail(store, key=key, now=lambda: NOW)


def test_notes_are_there_after_the_flush_and_not_before():
    store = MemoryLogStore()
    trail = make(store)
    trail.note("run.created", run="r", by="oz")
    assert store.read_log(LOG) == ()
    assert trail.head.length == 0
    head = trail.flush()
    (record,) = store.read_log(LOG)
    at = datetime.fromtimestamp(NOW, UTC).isoformat(timespec="milliseconds")
    assert (record.kind, record.body["run"], record.body["at"]) == ("run.created", "r", at)
    assert head == trail.head == trail.flush()
    assert head.length == 1


def test_checkpoints_stand_behind_what_is_to_be_signed_and_every_so_often():
    store = MemoryLogStore()
    trail = make(store)
    trail.note("round.committed", sign=True)
    trail.flush()
    for _ in range(EVERY):
        trail.note("round.opened")
        trail.flush()
    kinds = [r.kind for r in store.read_log(LOG)]
    assert [i for i, k in enumerate(kinds) if k == CHECKPOINT] == [1, EVERY + 2]
    found = check(store.read_log(LOG), keys=[KEY.public])
    assert not found.faults
    assert found.signed == EVERY + 2


def test_two_processes_write_one_trail():
    store = MemoryLogStore()
    one, two = make(store), make(store, key=None)
    for number in range(6):
        one.note("one", number_=number)
        two.note("two", number_=number)
        one.flush()
        two.flush()
    records = store.read_log(LOG)
    assert not check(records).faults
    assert len(records) == 12


class Broken(MemoryLogStore):
    """Writes, and says that it did not; or does not."""

    mode = ""

    def append_log(self, log, records, *, expect):
        mode, self.mode = self.mode, ""
        if mode == "lost":
            raise StoreUnavailable("gone")
        found = super().append_log(log, records, expect=expect)
        if mode == "unheard":
            raise StoreUnavailable("gone")
        return found


@pytest.mark.parametrize("mode", ["lost", "unheard"])
def test_a_flush_that_failed_is_repeated_and_nothing_is_there_twice(mode):
    store = Broken()
    trail = make(store)
    trail.note("a", sign=True)
    store.mode = mode
    with pytest.raises(StoreUnavailable):
        trail.flush()
    trail.note("b")
    trail.flush()
    kinds = [r.kind for r in store.read_log(LOG) if r.kind != CHECKPOINT]
    assert kinds == ["a", "b"]
    assert not check(store.read_log(LOG), keys=[KEY.public]).faults


def test_a_changed_trail_is_not_opened(tmp_path):
    trail, store = open_trail(tmp_path, key=KEY, now=lambda: NOW)
    for number in range(3):
        trail.note("x", count=number)
    trail.flush()
    store.close()
    again, store = open_trail(tmp_path, key=KEY, now=lambda: NOW)
    assert again.head == trail.head
    store.close()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("update log_records set body = replace(body, '\"count\":1', '\"count\":7')")
    with pytest.raises(TamperedAudit, match="entry 1 was edited"):
        open_trail(tmp_path, key=KEY, now=lambda: NOW)
    assert check(read_trail(tmp_path)).faults == ("entry 1 was edited",)


def test_no_trail_is_made_where_none_is_wanted(tmp_path):
    with pytest.raises(StoreError, match="no audit trail"):
        read_trail(tmp_path)


@pytest.mark.parametrize(
    "place",
    ["sqlite", pytest.param("postgres_url", marks=pytest.mark.xdist_group("postgres"))],
)
def test_a_writer_that_was_taken_over_writes_nothing(place, request, tmp_path):
    url = f"sqlite:///{tmp_path}/run.db" if place == "sqlite" else request.getfixturevalue(place)
    database = open_database(url)
    database.create("leader", {})
    first = database.acquire("leader")
    asleep = make(database.fenced(lambda: first))
    asleep.note("round.opened", sign=True)
    asleep.flush()
    asleep.note("round.committed", sign=True)
    second = database.acquire("leader")  # while the first one sleeps

    with pytest.raises(Fenced):
        asleep.flush()
    asleep.flush()  # nothing waits any more, so nothing is written later either
    leads = make(database.fenced(lambda: second))
    leads.note("run.resumed", sign=True)
    leads.flush()
    records = database.read_log(LOG)
    kinds = [r.kind for r in records if r.kind != CHECKPOINT]
    assert kinds == ["round.opened", "run.resumed"]
    assert not check(records, keys=[KEY.public]).faults
    database.close()


def test_what_was_noted_can_be_forgotten():
    store = MemoryLogStore()
    trail = make(store)
    trail.note("a", sign=True)
    trail.forget()
    trail.flush()
    assert store.read_log(LOG) == ()
