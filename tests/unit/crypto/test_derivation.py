"""HKDF against RFC 5869, and that every part of a key's name counts."""

import itertools

import pytest
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF as OtherHKDF
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import ConfigError, Refused
from choral.crypto.derivation import Purpose, derive_key, hkdf_sha256
from choral.crypto.secret import Secret


def test_rfc_5869(vectors):
    for v in vectors("hkdf")["vectors"]:
        found = hkdf_sha256(
            bytes.fromhex(v["ikm"]),
            salt=bytes.fromhex(v["salt"]),
            info=bytes.fromhex(v["info"]),
            size=v["size"],
        )
        assert found.hex() == v["okm"]


@given(
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=64),
    st.binary(max_size=64),
    st.integers(1, 100),
)
def test_it_agrees_with_pycryptodome(secret, salt, info, size):
    expected = OtherHKDF(secret, size, salt, SHA256, context=info)
    assert hkdf_sha256(secret, salt=salt, info=info, size=size) == expected


def test_frozen_keys(vectors):
    for v in vectors("derivation")["vectors"]:
        key = derive_key(
            Secret(bytes.fromhex(v["secret"])),
            purpose=Purpose(v["purpose"]),
            transcript=bytes.fromhex(v["transcript"]),
            ids=tuple(v["ids"]),
        )
        assert bytes(key.expose()).hex() == v["key"]


def derive(secret=0, purpose=Purpose.TRANSPORT, transcript=0, ids=("a", "b")):
    key = derive_key(
        Secret(bytes([secret] * 32)), purpose=purpose, transcript=bytes([transcript] * 32), ids=ids
    )
    return bytes(key.expose())


def test_every_part_changes_the_key():
    keys = [
        derive(),
        derive(secret=1),
        derive(transcript=1),
        derive(ids=("b", "a")),
        derive(ids=("a", "c")),
        derive(purpose=Purpose.PAIR_MASK),
        derive(purpose=Purpose.SELF_MASK, ids=("a",)),
        derive(purpose=Purpose.SELF_MASK, ids=("ab",)),
    ]
    assert all(x != y for x, y in itertools.combinations(keys, 2))


def test_ids_do_not_run_into_each_other():
    assert derive(ids=("a", "bc")) != derive(ids=("ab", "c"))


def test_both_ends_derive_one_pair_mask():
    ends = [derive(purpose=Purpose.PAIR_MASK, ids=ids) for ids in (("a", "b"), ("b", "a"))]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("purpose", "ids"),
    [
        (Purpose.TRANSPORT, ("a",)),
        (Purpose.TRANSPORT, ("a", "a")),
        (Purpose.PAIR_MASK, ("a", "a")),
        (Purpose.PAIR_MASK, ("a", "b", "c")),
        (Purpose.SELF_MASK, ("a", "b")),
        (Purpose.SELF_MASK, ()),
    ],
)
def test_ids_must_fit_the_purpose(purpose, ids):
    with pytest.raises(ConfigError, match=purpose.value):
        derive(purpose=purpose, ids=ids)


def test_the_salt_is_a_digest():
    with pytest.raises(ConfigError, match="of 0 bytes, expected 32"):
        derive_key(Secret(bytes(32)), purpose=Purpose.SELF_MASK, transcript=b"", ids=("a",))


def test_an_erased_secret_gives_no_keys():
    secret = Secret(bytes(32))
    secret.erase()
    with pytest.raises(Refused):
        derive_key(secret, purpose=Purpose.SELF_MASK, transcript=bytes(32), ids=("a",))
