"""Ed25519 against RFC 8032 and libsodium; strict keys, signatures and labels."""

import nacl.exceptions
import nacl.signing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import Refused
from choral.crypto.secret import Secret
from choral.crypto.signatures import (
    FIELD,
    LOW_ORDER,
    SigningKey,
    Statement,
    check_verify_key,
    statement,
    verify,
)

ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, FIELD) % FIELD
SEED = bytes(range(32))


def key(seed=SEED):
    return SigningKey(Secret(seed))


def test_rfc_8032(vectors):
    for v in vectors("ed25519")["vectors"]:
        what, signature = Statement(bytes.fromhex(v["message"])), bytes.fromhex(v["signature"])
        pair = key(bytes.fromhex(v["seed"]))
        assert pair.public.hex() == v["public"]
        assert pair.sign(what) == signature
        verify(pair.public, what, signature)


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), st.text(max_size=9), st.lists(st.binary(max_size=40)))
def test_libsodium_reads_and_writes_the_same(seed, label, fields):
    what, other = statement(label, *fields), nacl.signing.SigningKey(seed)
    signature = key(seed).sign(what)
    assert signature == other.sign(bytes(what)).signature
    other.verify_key.verify(bytes(what), signature)
    verify(bytes(other.verify_key), what, signature)


def test_another_label_field_or_key_does_not_verify():
    pair = key()
    signature = pair.sign(statement("survivors", b"h1", b"root"))
    verify(pair.public, statement("survivors", b"h1", b"root"), signature)
    for other in (
        statement("keys", b"h1", b"root"),
        statement("survivors", b"h1root"),
        statement("survivors", b"h1", b"roo", b"t"),
        statement("survivors", b"h2", b"root"),
        Statement(b"h1root"),
    ):
        with pytest.raises(Refused, match="does not verify"):
            verify(pair.public, other, signature)
    with pytest.raises(Refused, match="does not verify"):
        verify(key(bytes(32)).public, statement("survivors", b"h1", b"root"), signature)


def test_every_changed_bit_is_noticed():
    pair, what = key(), statement("keys", b"h0")
    signature = pair.sign(what)
    for bit in range(0, 512, 7):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused, match="does not verify"):
            verify(pair.public, what, bytes(changed))


def test_a_signature_has_one_spelling():
    """S + L passes the equation: only a strict check refuses it."""
    pair, what = key(), statement("keys")
    signature = pair.sign(what)
    s = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(Refused, match="does not verify"):
        verify(pair.public, what, signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signatures_have_one_length(size):
    with pytest.raises(Refused, match=f"{size} bytes, expected 64"):
        verify(key().public, statement("keys"), bytes(size))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_have_one_length(size):
    with pytest.raises(Refused, match=f"{size} bytes, expected 32"):
        check_verify_key(bytes(size))


def points_of(y):
    """Return the points with this y, on -x^2 + y^2 = 1 + d x^2 y^2."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, FIELD) % FIELD
    root = pow(square, (FIELD + 3) // 8, FIELD)
    if root * root % FIELD != square:
        root = root * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    assert root * root % FIELD == square
    return {(root, y), (-root % FIELD, y)}


def doubled(point):
    x, y = point
    t = D * x * x * y * y
    return (
        2 * x * y * pow(1 + t, -1, FIELD) % FIELD,
        (y * y + x * x) * pow(1 - t, -1, FIELD) % FIELD,
    )


def test_the_list_of_low_orders_is_whole():
    torsion = set().union(*map(points_of, LOW_ORDER))
    assert len(torsion) == 8
    for point in torsion:
        assert doubled(doubled(doubled(point))) == (0, 1)


@pytest.mark.parametrize("sign", [0, 1])
def test_keys_of_low_order_are_refused(sign):
    for y in LOW_ORDER:
        raw = (y | sign << 255).to_bytes(32, "little")
        with pytest.raises(Refused, match="low order"):
            verify(raw, statement("keys"), bytes(64))


def test_a_key_of_low_order_would_accept_a_forgery():
    """Why: under the neutral point, R = S B verifies for every message, in OpenSSL too."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    forged = (1).to_bytes(32, "little") + bytes(32)
    weak = (1).to_bytes(32, "little")
    for message in (b"yes", b"no"):
        Ed25519PublicKey.from_public_bytes(weak).verify(forged, message)
        with pytest.raises(Refused, match="low order"):
            verify(weak, Statement(message), forged)


def test_other_spellings_of_keys_are_refused():
    for y in range(FIELD, 2**255):
        for sign in (0, 1):
            with pytest.raises(Refused, match="canonical"):
                check_verify_key((y | sign << 255).to_bytes(32, "little"))


def test_bytes_that_are_no_point_are_refused():
    with pytest.raises(Refused, match="does not verify"):
        verify((2).to_bytes(32, "little"), statement("keys"), bytes(64))


def test_keys_come_from_the_port_and_go_when_erased(stream):
    pair = SigningKey.random(stream("key"))
    assert SigningKey.random(stream("key")).public == pair.public
    pair.erase()
    with pytest.raises(Refused, match="erased"):
        pair.sign(statement("keys"))
