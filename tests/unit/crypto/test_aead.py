"""AES-256-GCM against published vectors and pycryptodome; one message a key."""

import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import Refused
from choral.crypto.aead import TAG_SIZE, OneTimeKey
from choral.crypto.secret import Secret

KEY = bytes(range(32))


def one_time(raw=KEY):
    return OneTimeKey(Secret(raw))


def test_published_vectors(vectors):
    for v in vectors("aes_gcm")["vectors"]:
        raw, aad, text, sealed = (
            bytes.fromhex(v[name]) for name in ("key", "aad", "plaintext", "sealed")
        )
        assert one_time(raw).seal(text, aad=aad) == sealed
        assert one_time(raw).open(sealed, aad=aad) == text


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.binary(max_size=100))
def test_pycryptodome_reads_and_writes_the_same(raw, message, aad):
    def other():
        cipher = AES.new(raw, AES.MODE_GCM, nonce=bytes(12))
        cipher.update(aad)
        return cipher

    sealed = one_time(raw).seal(message, aad=aad)
    assert other().decrypt_and_verify(sealed[:-TAG_SIZE], sealed[-TAG_SIZE:]) == message
    text, tag = other().encrypt_and_digest(message)
    assert one_time(raw).open(text + tag, aad=aad) == message


def test_a_key_seals_once():
    secret = Secret(KEY)
    first = OneTimeKey(secret)
    first.seal(b"shares", aad=b"h1")
    with pytest.raises(Refused, match="already sealed"):
        first.seal(b"shares", aad=b"h1")
    with pytest.raises(Refused, match="already sealed"):
        OneTimeKey(secret).seal(b"others", aad=b"h1")
    assert secret.erased


def test_any_change_is_noticed():
    sealed = one_time().seal(b"shares", aad=b"h1uv")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Refused, match="does not open"):
            one_time().open(bytes(changed), aad=b"h1uv")
    with pytest.raises(Refused, match="does not open"):
        one_time().open(sealed, aad=b"h1vu")
    with pytest.raises(Refused, match="does not open"):
        one_time(bytes(32)).open(sealed, aad=b"h1uv")


def test_cut_messages_are_refused():
    sealed = one_time().seal(b"shares", aad=b"")
    for size in range(len(sealed)):
        with pytest.raises(Refused):
            one_time().open(sealed[:size], aad=b"")


def test_an_erased_key_opens_nothing():
    sealed = one_time().seal(b"shares", aad=b"")
    key = one_time()
    key.erase()
    with pytest.raises(Refused, match="erased"):
        key.open(sealed, aad=b"")


def test_the_context_must_be_given():
    with pytest.raises(TypeError, match="aad"):
        one_time().seal(b"shares")
