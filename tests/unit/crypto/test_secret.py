"""Secrets do not show, compare in constant time, and go when told to."""

import copy
import hmac
import pickle  # noqa: TID251  # to see that it is refused

import pytest

from choral.core.errors import ConfigError, Refused
from choral.crypto import secret as module
from choral.crypto.secret import Secret


def test_it_holds_a_copy_of_its_bytes():
    source = bytearray(range(32))
    secret = Secret(source)
    source[0] = 255
    assert bytes(secret.expose()) == bytes(range(32))
    with pytest.raises(TypeError):
        secret.expose()[0] = 1


@pytest.mark.parametrize("size", [0, 31, 33])
def test_another_length_is_refused(size):
    with pytest.raises(ConfigError, match=f"{size} bytes, expected 32"):
        Secret(bytes(size))


def test_equality_compares_in_constant_time(monkeypatch):
    seen = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or real(a, b)
    )
    assert Secret(bytes(32)) == Secret(bytes(32))
    assert Secret(bytes(32)) != Secret(bytes([1] * 32))
    assert len(seen) == 2
    assert Secret(bytes(32)) != bytes(32)


def test_it_has_no_hash():
    with pytest.raises(TypeError):
        hash(Secret(bytes(32)))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_neither_copied_nor_pickled(duplicate):
    with pytest.raises(TypeError, match="not copied or pickled"):
        duplicate(Secret(bytes(range(32))))


def test_erasing_overwrites_the_bytes_and_can_be_repeated():
    secret = Secret(bytes(range(32)))
    view = secret.expose()
    secret.erase()
    secret.erase()
    assert bytes(view) == bytes(32)
    assert secret.erased
    with pytest.raises(Refused, match="was erased"):
        secret.expose()


def test_randomness_comes_from_the_port(script):
    assert bytes(Secret.random(script(bytes(range(32)))).expose()) == bytes(range(32))
    with pytest.raises(ConfigError, match="gave 16 bytes, expected 32"):
        Secret.random(script(bytes(16)))
