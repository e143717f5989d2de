"""X25519 against RFC 7748 and libsodium; public keys that are refused."""

import nacl.bindings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import Refused
from choral.crypto import agreement
from choral.crypto.agreement import FIELD, AgreementKey, check_public_key
from choral.crypto.secret import Secret

KEYS = st.binary(min_size=32, max_size=32)


def key(private):
    return AgreementKey(Secret(private))


def exchanged(private, peer):
    return bytes(key(private).exchange(peer).expose())


def canonical(raw):
    """Return another spelling of the same public key: top bit cleared and reduced."""
    number = int.from_bytes(raw, "little") % 2**255 % FIELD
    return number.to_bytes(32, "little")


def test_rfc_7748(vectors):
    for v in vectors("x25519")["vectors"]:
        private, peer = bytes.fromhex(v["private"]), bytes.fromhex(v["peer"])
        assert exchanged(private, canonical(peer)).hex() == v["shared"]
        if "public" in v:
            assert key(private).public.hex() == v["public"]


def test_rfc_7748_iterated(vectors):
    expected = vectors("x25519")["iterated"]
    scalar = peer = (9).to_bytes(32, "little")
    for step in range(1, 1001):
        scalar, peer = exchanged(scalar, peer), scalar
        # A scalar is any 32 bytes and becomes the next point: spell it canonically.
        peer = canonical(peer)
        if str(step) in expected:
            assert scalar.hex() == expected[str(step)]


@settings(max_examples=25)
@given(KEYS, KEYS)
def test_both_ends_and_libsodium_agree(a, b):
    shared = exchanged(a, key(b).public)
    assert shared == exchanged(b, key(a).public)
    assert shared == nacl.bindings.crypto_scalarmult(a, key(b).public)
    assert key(a).public == nacl.bindings.crypto_scalarmult_base(a)


def order_divides_8(u):
    """Double a point three times by its u coordinate alone, Z = 0 being infinity."""
    p, x, z = FIELD, u, 1
    for _ in range(3):
        s, d = (x + z) ** 2 % p, (x - z) ** 2 % p
        x, z = s * d % p, (s - d) * (s + 121665 * (s - d)) % p
    return z == 0


def test_points_of_low_order_are_refused(vectors):
    private = bytes(range(32))
    for text in vectors("x25519")["low_order"]:
        raw = bytes.fromhex(text)
        assert order_divides_8(int.from_bytes(raw, "little"))
        with pytest.raises(Refused, match="low order"):
            check_public_key(raw)
        with pytest.raises(Refused, match="low order"):
            key(private).exchange(raw)
    assert not order_divides_8(9)


def test_the_points_of_low_order_are_all_there_are(vectors, monkeypatch):
    listed = vectors("x25519")["low_order"]
    known = {int.from_bytes(bytes.fromhex(text), "little") for text in listed}
    assert known == agreement.LOW_ORDER
    monkeypatch.setattr(agreement, "LOW_ORDER", frozenset())
    for u in known:  # what the library says without our list
        with pytest.raises(Refused, match="low order"):
            key(bytes(range(32))).exchange(u.to_bytes(32, "little"))
    assert not any(order_divides_8(u) for u in range(2, 500))


def test_other_spellings_are_refused(vectors):
    for text in vectors("x25519")["not_canonical"]:
        with pytest.raises(Refused, match="canonical"):
            key(bytes(range(32))).exchange(bytes.fromhex(text))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_another_length_is_refused(size):
    with pytest.raises(Refused, match=f"{size} bytes, expected 32"):
        check_public_key(bytes(size))


def test_a_zero_result_is_refused_whatever_the_backend_does(monkeypatch):
    class Lenient:
        def exchange(self, peer):
            return bytes(32)

    pair = key(bytes(range(32)))
    pair._private = Lenient()
    with pytest.raises(Refused, match="low order"):
        pair.exchange(key(bytes(32)).public)


def test_the_secret_gives_the_public_key_again(stream):
    pair = AgreementKey.random(stream("pair"))
    assert key(bytes(pair.secret.expose())).public == pair.public
    assert AgreementKey.random(stream("pair")).public == pair.public
    assert AgreementKey.random(stream("other")).public != pair.public


def test_an_erased_pair_exchanges_nothing(stream):
    pair = AgreementKey.random(stream("pair"))
    pair.erase()
    assert pair.secret.erased
    with pytest.raises(Refused, match="erased"):
        pair.exchange(AgreementKey.random(stream("other")).public)
