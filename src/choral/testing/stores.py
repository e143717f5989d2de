"""Laws of the store ports. A new store enters the tables in `tests/conformance/stores/`.

Each law is a function that takes `open_store`, which opens the same storage anew every time it is
called, and raises `AssertionError` where the store breaks the law.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from choral.core.errors import Conflict, CorruptBlob, Fenced, NothingToResume, RunExists
from choral.core.ports import BlobStore, Lease, LogStore, Record, RunStore, SharedRunStore

T = TypeVar("T")
OpenRunStore: TypeAlias = Callable[[], RunStore]
OpenSharedRunStore: TypeAlias = Callable[[], SharedRunStore]
OpenLogStore: TypeAlias = Callable[[], LogStore]
OpenBlobStore: TypeAlias = Callable[[], BlobStore]

THREADS = 8
"""How many writers meet in the laws about those who write at once."""

_HEADER = {"name": "heart", "seed": 7, "nested": {"a": [1, None, True, 0.5, "ü"]}}


def _expect(kind: type[Exception], action: Callable[[], object]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")


def _equal(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def _at_once(work: Callable[[int], T]) -> list[T]:
    """Return what each of several threads made, all of them working at the same time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS)))


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
    _equal(store.append(lease, [], forget="Step"), 3)  # nothing goes where nothing comes
    _equal(len(list(store.read("a"))), 3)
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


def an_append_may_say_what_it_expects(open_store: OpenRunStore) -> None:
    """A wrong number is a `Conflict` and writes nothing, so a repeated append is written once."""
    store = open_store()
    store.create("a", {})
    lease = store.acquire("a")
    _equal(store.append(lease, _records(2), expect=0), 2)
    _expect(Conflict, lambda: open_store().append(lease, _records(2), expect=0))
    _expect(Conflict, lambda: store.append(lease, [], expect=3))
    _equal(store.append(lease, _records(1, first=2), expect=2), 3)
    _equal(list(store.read("a")), _records(3))


def a_fence_goes_before_an_expectation(open_store: OpenRunStore) -> None:
    """Who lost the run learns that, whatever they expect of its log."""
    store = open_store()
    store.create("a", {})
    stale = store.acquire("a")
    store.acquire("a")
    for expect in (0, 5):
        _expect(Fenced, lambda expect=expect: store.append(stale, [], expect=expect))  # type: ignore[misc]  # bound now


def appends_at_once_are_whole(open_store: OpenRunStore) -> None:
    """Appends of several threads under one lease do not mix, and none is lost."""
    open_store().create("a", {})
    lease = open_store().acquire("a")

    def write(who: int) -> list[int]:
        store = open_store()
        lines = [Record("Noted", {"who": who, "n": n}) for n in range(3)]
        return [store.append(lease, lines) for _ in range(4)]

    ends = sorted(end for found in _at_once(write) for end in found)
    _equal(ends, [3 * (n + 1) for n in range(4 * THREADS)])
    log = [(r.body["who"], r.body["n"]) for r in open_store().read("a")]
    for at in range(0, len(log), 3):
        _equal(log[at : at + 3], [(log[at][0], n) for n in range(3)])
    _equal(len(log), 12 * THREADS)


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


def a_lease_that_lasts_keeps_others_out(open_store: OpenSharedRunStore) -> None:
    """While a lease lasts, nobody else gets the run, and its holder writes."""
    one, two = open_store(), open_store()
    one.create("a", {})
    lease = _got(one.claim("a", owner="one", seconds=600))
    _equal(two.claim("a", owner="two", seconds=600), None)
    _equal(list(two.claimable()), [])
    _equal(one.append(lease, _records(1)), 1)


def a_lease_that_is_over_can_be_claimed(open_store: OpenSharedRunStore) -> None:
    """When a lease has ended another one takes the run, and the one before is fenced off."""
    one, two = open_store(), open_store()
    one.create("a", {})
    old = _got(one.claim("a", owner="one", seconds=0))
    _equal(one.append(old, _records(1)), 1)  # nobody took the run, so nothing forbids it
    new = _got(two.claim("a", owner="two", seconds=600))
    if not new.epoch > old.epoch:
        raise AssertionError("epochs must grow")
    _expect(Fenced, lambda: one.append(old, _records(1)))
    _expect(Fenced, lambda: one.renew(old, seconds=600))
    _equal(two.append(new, _records(1, first=1)), 2)


def an_owner_may_claim_again(open_store: OpenSharedRunStore) -> None:
    """A process that comes back under its name takes its run, and fences off its former self."""
    store = open_store()
    store.create("a", {})
    before = _got(store.claim("a", owner="one", seconds=600))
    after = _got(open_store().claim("a", owner="one", seconds=600))
    _expect(Fenced, lambda: store.append(before, _records(1)))
    _equal(store.append(after, _records(1)), 1)


def a_renewed_lease_lasts(open_store: OpenSharedRunStore) -> None:
    """A lease lasts from its last renewal on, even one that was over and that nobody took."""
    one, two = open_store(), open_store()
    one.create("a", {})
    lease = _got(one.claim("a", owner="one", seconds=0))
    one.renew(lease, seconds=600)
    _equal(two.claim("a", owner="two", seconds=600), None)
    one.renew(lease, seconds=0)
    _got(two.claim("a", owner="two", seconds=600))


def a_released_run_is_free(open_store: OpenSharedRunStore) -> None:
    """After a release others may claim the run, and the lease writes no more."""
    one, two = open_store(), open_store()
    one.create("a", {})
    lease = _got(one.claim("a", owner="one", seconds=600))
    one.release(lease)
    _expect(Fenced, lambda: one.append(lease, _records(1)))
    new = _got(two.claim("a", owner="two", seconds=600))
    one.release(lease)  # too late: it is somebody else's
    _equal(two.append(new, _records(1)), 1)
    _equal(one.claim("a", owner="one", seconds=600), None)


def a_take_over_ends_the_lease(open_store: OpenSharedRunStore) -> None:
    """`acquire` takes a run from whoever holds it; to hold it then, renew."""
    store = open_store()
    store.create("a", {})
    old = _got(store.claim("a", owner="one", seconds=600))
    new = store.acquire("a")
    _expect(Fenced, lambda: store.renew(old, seconds=600))
    _equal(list(store.claimable()), ["a"])
    store.renew(new, seconds=600)
    _equal(list(store.claimable()), [])
    _equal(store.claim("a", owner="one", seconds=600), None)


def what_can_be_claimed_is_listed(open_store: OpenSharedRunStore) -> None:
    """New runs, and those whose lease is over or released, oldest first."""
    store = open_store()
    for run_id in ("c", "a", "b", "d"):
        store.create(run_id, {})
    store.claim("c", owner="one", seconds=0)
    store.claim("a", owner="one", seconds=600)
    store.release(_got(store.claim("b", owner="one", seconds=600)))
    _equal(list(open_store().claimable()), ["c", "b", "d"])


def a_run_that_is_not_there_is_not_claimed(open_store: OpenSharedRunStore) -> None:
    """Claiming an unknown run raises `NothingToResume`."""
    _expect(NothingToResume, lambda: open_store().claim("a", owner="one", seconds=1))


def a_lease_has_an_end(open_store: OpenSharedRunStore) -> None:
    """A length that is negative or without end is refused, and nobody holds the run then."""
    store = open_store()
    store.create("a", {})
    for seconds in (-1.0, float("inf"), float("nan")):
        _expect(ValueError, lambda s=seconds: store.claim("a", owner="one", seconds=s))  # type: ignore[misc]  # bound now
    _equal(list(store.claimable()), ["a"])


def of_those_who_claim_at_once_one_wins(open_store: OpenSharedRunStore) -> None:
    """Exactly one of several owners gets each run."""
    ids = [f"r{n}" for n in range(5)]
    for run_id in ids:
        open_store().create(run_id, {})

    def claim(who: int) -> list[str]:
        store = open_store()
        return [r for r in ids if store.claim(r, owner=f"o{who}", seconds=600) is not None]

    _equal(sorted(r for found in _at_once(claim) for r in found), ids)


def _got(lease: Lease | None) -> Lease:
    if lease is None:
        raise AssertionError("expected a lease")
    return lease


def a_log_comes_back_in_order(open_store: OpenLogStore) -> None:
    """Records are read in the order in which they were appended, from any number on."""
    store = open_store()
    _equal(store.append_log("a", _records(3), expect=0), 3)
    _equal(store.append_log("a", [], expect=3), 3)
    _equal(open_store().append_log("a", _records(2, first=3), expect=3), 5)
    _equal(list(open_store().read_log("a")), _records(5))
    _equal(list(store.read_log("a", start=3)), _records(2, first=3))
    _equal(list(store.read_log("a", start=5)), [])


def logs_are_listed_by_name(open_store: OpenLogStore) -> None:
    """Any text is a name; only logs that hold a record are listed, and none mixes with another."""
    store = open_store()
    names = ["", "Z", "a", "a/b", "a%", "é", "日本"]
    for name in reversed(names):
        store.append_log(name, [Record("Noted", {"name": name})] * 2, expect=0)
    store.append_log("empty", [], expect=0)
    _equal(list(open_store().logs()), sorted(names))
    for name in names:
        _equal([r.body["name"] for r in store.read_log(name)], [name] * 2)
    _equal(list(store.read_log("absent")), [])


def a_log_that_has_grown_is_a_conflict(open_store: OpenLogStore) -> None:
    """Another number of records than expected is a `Conflict`, and nothing is written."""
    store = open_store()
    store.append_log("a", _records(2), expect=0)
    for expect in (0, 1, 3):
        for records in ([], _records(1)):
            _expect(
                Conflict,
                lambda e=expect, r=records: store.append_log("a", r, expect=e),  # type: ignore[misc]  # bound now
            )
    _equal(list(store.read_log("a")), _records(2))


def those_who_append_at_once_lose_nothing(open_store: OpenLogStore) -> None:
    """Each reads, decides and appends; every decision holds for the log as it was then."""

    def write(who: int) -> None:
        store = open_store()
        for n in range(5):
            while not _noted(store, {"who": who, "n": n}):
                pass

    _at_once(write)
    log = [r.body for r in open_store().read_log("a")]
    _equal([line["seen"] for line in log], list(range(5 * THREADS)))
    for who in range(THREADS):
        _equal([line["n"] for line in log if line["who"] == who], list(range(5)))


def _noted(store: LogStore, line: dict[str, int]) -> bool:
    """Append a line that says how many records its writer has seen."""
    seen = len(store.read_log("a"))
    try:
        store.append_log("a", [Record("Noted", line | {"seen": seen})], expect=seen)
    except Conflict:
        return False
    return True


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


def large_bytes_come_back(open_store: OpenBlobStore) -> None:
    """Many blocks, more of them than one request of an object store takes, are one blob."""
    blocks = [bytes([n]) * 700_001 for n in range(16)]
    digest = open_store().put(iter(blocks))
    _equal(digest, hashlib.sha256(b"".join(blocks)).hexdigest())
    if open_store().get(digest) != b"".join(blocks):
        raise AssertionError("other bytes came back")


def blocks_that_fail_leave_nothing(open_store: OpenBlobStore) -> None:
    """Where the blocks' source fails nothing is stored."""

    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    _expect(ZeroDivisionError, lambda: open_store().put(blocks()))
    _equal(list(open_store().digests()), [])


def those_who_put_at_once_agree(open_store: OpenBlobStore) -> None:
    """The same bytes from several threads are one blob."""
    found = _at_once(lambda _: open_store().put([b"x" * 1000, b"y"]))
    _equal(len(set(found)), 1)
    _equal(list(open_store().digests()), found[:1])


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
    an_append_may_say_what_it_expects,
    a_fence_goes_before_an_expectation,
    appends_at_once_are_whole,
    a_failed_append_writes_nothing,
)
"""Every law of the `RunStore` port."""

SHARED_RUN_STORE_LAWS: tuple[Callable[[OpenSharedRunStore], None], ...] = (
    a_lease_that_lasts_keeps_others_out,
    a_lease_that_is_over_can_be_claimed,
    an_owner_may_claim_again,
    a_renewed_lease_lasts,
    a_released_run_is_free,
    a_take_over_ends_the_lease,
    what_can_be_claimed_is_listed,
    a_run_that_is_not_there_is_not_claimed,
    a_lease_has_an_end,
    of_those_who_claim_at_once_one_wins,
)
"""Every law that `SharedRunStore` adds to those of `RunStore`."""

LOG_STORE_LAWS: tuple[Callable[[OpenLogStore], None], ...] = (
    a_log_comes_back_in_order,
    logs_are_listed_by_name,
    a_log_that_has_grown_is_a_conflict,
    those_who_append_at_once_lose_nothing,
)
"""Every law of the `LogStore` port."""

BLOB_STORE_LAWS: tuple[Callable[[OpenBlobStore], None], ...] = (
    bytes_come_back,
    nothing_is_a_blob_too,
    the_same_bytes_are_one_blob,
    absent_bytes_are_named,
    deleted_bytes_are_gone,
    large_bytes_come_back,
    blocks_that_fail_leave_nothing,
    those_who_put_at_once_agree,
    a_digest_is_no_path,
)
"""Every law of the `BlobStore` port."""
