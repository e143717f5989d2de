"""What the property tests of messages do not reach: what is packed at once, and broken blocks."""

from dataclasses import replace

import pytest

from choral.crypto.encoding import frame, framed
from choral.secagg import messages as msg
from choral.secagg.refusals import Breach, Reason


def delivery(dealer, place, hashes=2):
    hashed = msg.ShareHashes(b"b" * 32, b"s" * 32)
    proof = (bytes(32),) * hashes
    sealed = bytes([place]) * msg.SEALED_SIZE
    return msg.Delivery(dealer, place, b"c" * 32, b"r" * 32, hashed, proof, sealed, b"g" * 64)


def packed(m):
    return msg.Deliveries.packed(
        framed(
            msg.pack_delivery(
                d.place,
                head=msg.delivery_head(d.dealer, d.signature),
                common=(d.commitment, d.root, d.signature),
                hashes=d.hashes,
                proof=d.proof,
                sealed=d.sealed,
            )
            for d in m.deliveries
        )
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_deliveries_packed_at_once_are_the_same(count):
    plain = msg.Deliveries(tuple(delivery(f"dealer-{i}", i, i) for i in range(count)))
    made = packed(plain)
    assert msg.encode(made) == msg.encode(plain)
    assert made == plain == msg.decode(msg.encode(made))
    assert replace(made, deliveries=()) == msg.Deliveries(())
    assert msg.encode(replace(made, deliveries=())) == msg.encode(msg.Deliveries(()))
    with pytest.raises(AttributeError):
        _ = made.other


def is_refused(raw):
    with pytest.raises(Breach) as found:
        msg.decode(raw)
    return found.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("size", [287, 289, 288 + 63, 288 + 65])
def test_a_body_of_another_size_is_malformed(size):
    item = frame("a", bytes(size), b"")
    assert is_refused(frame("secagg deliveries", frame("", item)[8:]))


def test_every_dealer_has_one_share():
    m = msg.Unmask("c", (msg.Revealed("a", msg.Kind.SELF_MASK, bytes(32), bytes(36)),), b"")
    raw, row = msg.encode(m), b"b" + bytes(68)
    keys = frame("a")
    good = frame("secagg unmask", b"c", frame("", keys, row)[8:], b"")
    assert good == raw
    for wrong in (
        frame("", keys, row + row)[8:],
        frame("", b"", row)[8:],
        frame("", keys, row[:-1])[8:],
        frame("", keys, b"c" + row[1:])[8:],
        frame("", keys, row, b"")[8:],
    ):
        assert is_refused(frame("secagg unmask", b"c", wrong, b""))


def test_a_block_of_values_of_another_size_is_not_written():
    with pytest.raises(Breach, match="block"):
        msg.encode(msg.Bundle("c", bytes(32), (), (bytes(151),), b""))
