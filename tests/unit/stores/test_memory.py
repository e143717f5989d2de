"""Leases in memory, by a clock that a test moves."""

from choral.stores.memory import MemoryRunStore
from choral.testing import VirtualClock


def test_a_lease_ends_when_its_time_is_over():
    clock = VirtualClock()
    store = MemoryRunStore(clock.monotonic)
    store.create("a", {})
    lease = store.claim("a", owner="one", seconds=10)
    clock.advance(9)
    assert store.claim("a", owner="two", seconds=10) is None
    store.renew(lease, seconds=2)
    clock.advance(2)
    assert store.claimable() == ("a",)
    assert store.claim("a", owner="two", seconds=10).epoch == lease.epoch + 1
