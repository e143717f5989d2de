"""Laws of the store ports. A new store enters the tables in `tests/conformance/stores/`.

Each law is a function that takes `open_store`, which opens the same storage anew every time it is
called, and raises `AssertionError` where the store breaks the law.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

from choral.core.errors import ChoralError, CorruptBlob, Fenced, NothingToResume, RunExists
from choral.core.ports import BlobStore, Record, RunStore

OpenRunStore: TypeAlias = Callable[[], RunStore]
OpenBlobStore: TypeAlias = Callable[[], BlobStore]

_HEADER = {"name": "heart", "seed": 7, "nested": {"a": [1, None, True, 0.5, "ü"]}}


def _expect(kind: type[ChoralError], action: Callable[[], object]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")


def _equal(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def _records(count: int, *, first: int = 0) -> list[Record]:
    return [Record("Noted", {"n": first + n, "text": "é\u2028\x1f"}) for n in range(count)]


def a_run_has_its_header(open_store: OpenRunStore) -> None:
    """What was written as the header is read back, by whoever opens the store next."""
    open_store().create("a", _HEADER)
    _equal(open_store().header("a"), _HEADER)


def a_run_is_made_once(open_store: OpenRunStore) -> None:
    """A second run of the same id is refused and the first one stays."""
    store = open_store()
    store.create("a", _HEADER)
    _expect(RunExists, lambda: store.create("a", {}))
    _equal(store.header("a"), _HEADER)


def runs_are_listed_oldest_first(open_store: OpenRunStore) -> None:
    """Ids come in the order in which the runs were made."""
    store = open_store()
    for run_id in ("b", "a", "c"):
        store.create(run_id, {})
    _equal(list(open_store().runs()), ["b", "a", "c"])


def an_unknown_run_is_named(open_store: OpenRunStore) -> None:
    """Everything about a run that is not there raises `NothingToResume`."""
    store = open_store()
    _expect(NothingToResume, lambda: store.header("a"))
    _expect(NothingToResume, lambda: store.acquire("a"))
    _expect(NothingToResume, lambda: list(store.read("a")))


def records_come_back_in_order(open_store: OpenRunStore) -> None:
    """Appends follow each other; the number of records is returned."""
    store = open_store()
    store.create("a", {})
    lease = store.acquire("a")
    _equal(store.append(lease, _records(3)), 3)
    _equal(store.append(lease, []), 3)
    _equal(store.append(lease, _records(2, first=3)), 5)
    _equal(list(open_store().read("a")), _records(5))


def a_kind_of_records_can_be_forgotten(open_store: OpenRunStore) -> None:
    """What is appended with `forget` stays, what was there of that kind goes, and numbers go on."""
    store = open_store()
    store.create("a", {})
    lease = store.acquire("a")
    step, kept = Record("Step", {"n": 0}), Record("Noted", {"n": 1})
    store.append(lease, [step, kept, step])
    _equal(store.append(lease, [step], forget="Step"), 4)
    _equal(list(open_store().read("a")), [kept, step])
    _equal(store.append(lease, [kept]), 5)


def runs_do_not_mix(open_store: OpenRunStore) -> None:
    """Each run has its own log."""
    store = open_store()
    for run_id in ("a", "b"):
        store.create(run_id, {})
    store.append(store.acquire("a"), _records(2))
    _equal(list(store.read("b")), [])


def a_new_owner_fences_off_the_old(open_store: OpenRunStore) -> None:
    """After someone takes a run over, the one before writes nothing at all."""
    old, new = open_store(), open_store()
    old.create("a", {})
    stale = old.acquire("a")
    old.append(stale, _records(1))
    fresh = new.acquire("a")
    if not fresh.epoch > stale.epoch:
        raise AssertionError("epochs must grow")
    _expect(Fenced, lambda: old.append(stale, _records(1, first=9)))
    new.append(fresh, _records(1, first=1))
    _equal(list(new.read("a")), _records(2))


def a_failed_append_writes_nothing(open_store: OpenRunStore) -> None:
    """An append is one transaction: a record that cannot be stored takes the others along."""
    store = open_store()
    store.create("a", {})
    lease = store.acquire("a")

    def broken() -> Sequence[Record]:
        raise ZeroDivisionError

    def half() -> object:
        yield from _records(1)
        yield from broken()

    try:
        store.append(lease, half())  # type: ignore[arg-type]  # breaks in the middle on purpose
    except ZeroDivisionError:
        _equal(list(store.read("a")), [])
        return
    raise AssertionError("expected the error of the records' source")


def bytes_come_back(open_store: OpenBlobStore) -> None:
    """Blocks are stored as one, under the SHA-256 of all their bytes."""
    digest = open_store().put([b"ab", memoryview(b"c")])
    _equal(digest, hashlib.sha256(b"abc").hexdigest())
    _equal(bytes(open_store().get(digest)), b"abc")


def nothing_is_a_blob_too(open_store: OpenBlobStore) -> None:
    """A blob of no bytes can be stored."""
    digest = open_store().put([])
    _equal(bytes(open_store().get(digest)), b"")


def the_same_bytes_are_one_blob(open_store: OpenBlobStore) -> None:
    """Storing again changes nothing."""
    store = open_store()
    _equal(store.put([b"x"]), store.put([b"x"]))
    _equal(len(store.digests()), 1)


def absent_bytes_are_named(open_store: OpenBlobStore) -> None:
    """Absent bytes raise `CorruptBlob`; asking or deleting does not."""
    store = open_store()
    absent = hashlib.sha256(b"absent").hexdigest()
    _expect(CorruptBlob, lambda: store.get(absent))
    _equal(store.has(absent), False)
    store.delete(absent)


def deleted_bytes_are_gone(open_store: OpenBlobStore) -> None:
    """After `delete` only the others are left."""
    store = open_store()
    first, second = store.put([b"1"]), store.put([b"2"])
    store.delete(first)
    _equal((store.has(first), store.has(second)), (False, True))
    _equal(list(open_store().digests()), [second])


def a_digest_is_no_path(open_store: OpenBlobStore) -> None:
    """What is not a digest never reaches the storage."""
    store = open_store()
    for name in ("../secret", "", "a" * 63, "A" * 64, "a/" * 32):
        _expect(CorruptBlob, lambda name=name: store.get(name))  # type: ignore[misc]  # bound now


RUN_STORE_LAWS: tuple[Callable[[OpenRunStore], None], ...] = (
    a_run_has_its_header,
    a_run_is_made_once,
    runs_are_listed_oldest_first,
    an_unknown_run_is_named,
    records_come_back_in_order,
    a_kind_of_records_can_be_forgotten,
    runs_do_not_mix,
    a_new_owner_fences_off_the_old,
    a_failed_append_writes_nothing,
)
"""Every law of the `RunStore` port."""

BLOB_STORE_LAWS: tuple[Callable[[OpenBlobStore], None], ...] = (
    bytes_come_back,
    nothing_is_a_blob_too,
    the_same_bytes_are_one_blob,
    absent_bytes_are_named,
    deleted_bytes_are_gone,
    a_digest_is_no_path,
)
"""Every law of the `BlobStore` port."""
