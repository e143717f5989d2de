"""Planted secrets never show: not in a repr, not in a message, not in a traceback."""

import traceback

import numpy as np
import pytest

from choral.core.errors import ChoralError
from choral.crypto.aead import OneTimeKey
from choral.crypto.agreement import AgreementKey
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.crypto.shamir import combine, share
from choral.crypto.signatures import SigningKey, statement, verify

CANARY = b"canary:never-to-be-seen-anywhere"


def shows(text):
    """Return whether a text holds the canary, in any spelling that Python may print."""
    spellings = (
        CANARY.decode(),
        CANARY.hex(),
        CANARY[::-1].hex(),
        str(int.from_bytes(CANARY, "little")),
        str(int.from_bytes(CANARY, "big")),
        ", ".join(map(str, CANARY)),
        " ".join(f"{b:3d}" for b in CANARY[:8]),
    )
    return any(spelling in text for spelling in spellings)


def secret():
    return Secret(CANARY)


HOLDERS = [
    secret,
    lambda: AgreementKey(secret()),
    lambda: SigningKey(secret()),
    lambda: OneTimeKey(secret()),
    lambda: Mask(Generator.AES_256_CTR, secret(), ring=Ring(32)),
    lambda: derive_key(secret(), purpose=Purpose.SELF_MASK, transcript=bytes(32), ids=("a",)),
]


def test_the_search_finds_what_it_is_for():
    """Positive control."""
    for text in (repr(CANARY), CANARY.hex(), repr(list(CANARY)), repr(memoryview(CANARY).tolist())):
        assert shows(text)


@pytest.mark.parametrize("make", HOLDERS)
def test_objects_do_not_show_it(make):
    held = make()
    for text in (repr(held), str(held), f"{held}", repr([held])):
        assert not shows(text)
    assert not hasattr(held, "__dict__")


def seal_twice(stream):
    key = OneTimeKey(secret())
    key.seal(CANARY, aad=b"")
    key.seal(CANARY, aad=b"")


def use_after_erase(stream):
    pair = AgreementKey(secret())
    pair.erase()
    pair.exchange((9).to_bytes(32, "little"))


def combine_a_bad_share(stream):
    made = share([secret()], threshold=2, holders=2, rand=stream("canary"))
    made[0, 0, 0] = 2**31 - 1
    combine(made, positions=[1, 2], threshold=2)


def combine_twice_the_same(stream):
    made = share([secret()], threshold=2, holders=2, rand=stream("canary"))
    combine(made, positions=[1, 1], threshold=2)


FAILURES = [
    lambda stream: Secret(CANARY + b"!"),
    lambda stream: OneTimeKey(secret()).open(CANARY, aad=CANARY),
    seal_twice,
    use_after_erase,
    lambda stream: AgreementKey(secret()).exchange(bytes(32)),
    lambda stream: AgreementKey(secret()).exchange(CANARY + b"!"),
    lambda stream: derive_key(
        secret(), purpose=Purpose.SELF_MASK, transcript=CANARY[:9], ids=("a",)
    ),
    lambda stream: Mask(Generator.AES_256_CTR, secret(), ring=Ring(32)).add_into(
        np.zeros(2), start=0, sign=1
    ),
    lambda stream: share([secret()], threshold=9, holders=2, rand=stream("canary")),
    combine_a_bad_share,
    combine_twice_the_same,
    lambda stream: verify(SigningKey(secret()).public, statement("label", CANARY), bytes(64)),
]


@pytest.mark.parametrize("fail", FAILURES)
def test_errors_do_not_show_it(fail, stream):
    with pytest.raises(ChoralError) as caught:
        fail(stream)
    assert not shows("".join(traceback.format_exception(caught.value)))
    assert not shows(repr(caught.value.args))
