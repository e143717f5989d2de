"""Secret bytes that do not show and that can be erased."""

from __future__ import annotations

import hmac
from typing import Any, Final, NoReturn, TypeAlias

from choral.core.errors import ConfigError, Refused
from choral.core.ports import Rand

SECRET_SIZE: Final = 32
"""Bytes of every key, seed and private scalar here."""

Buffer: TypeAlias = bytes | bytearray | memoryview


class Secret:
    """32 bytes that stay out of reprs, logs, messages of errors and pickles.

    Guarantees: `repr` and `str` show nothing; comparison takes the same time for all values;
    copying and pickling are refused, so that `erase` reaches the only copy in this object.
    `erase` overwrites the bytes held here. It cannot reach what Python or OpenSSL copied on the
    way (the bytes it was built from, an open cipher until it is collected).

    Args:
        value: Exactly 32 bytes; they are copied.

    Raises:
        ConfigError: Another length.

    >>> Secret(bytes(32))
    Secret(…)
    """

    __slots__ = ("_bytes",)
    __hash__ = None  # type: ignore[assignment]  # a hash would tell equal secrets apart

    def __init__(self, value: Buffer) -> None:
        self._bytes: bytearray | None = None
        size = memoryview(value).nbytes
        if size != SECRET_SIZE:
            raise ConfigError(f"a secret of {size} bytes, expected {SECRET_SIZE}")
        self._bytes = bytearray(value)

    @classmethod
    def random(cls, rand: Rand) -> Secret:
        """Return a fresh secret from the port of secret randomness."""
        return cls(draw(rand, SECRET_SIZE))

    def expose(self) -> memoryview:
        """Return a read-only view of the bytes, for a cipher or for the private state.

        Raises:
            Refused: The secret was erased.
        """
        if self._bytes is None:
            raise Refused("the secret was erased", hint="a new attempt needs new keys")
        return memoryview(self._bytes).toreadonly()

    @property
    def erased(self) -> bool:
        """Whether the bytes are gone."""
        return self._bytes is None

    def take(self) -> Secret | None:
        """Return the bytes in a new secret and leave this one erased; None where it is already.

        Of two threads that take at once, one gets them.
        """
        box: list[bytearray | None] = [None]
        box[0], self._bytes = self._bytes, None
        taken = box[0]
        if taken is None:
            return None
        secret = Secret(taken)
        taken[:] = bytes(SECRET_SIZE)
        return secret

    def erase(self) -> None:
        """Overwrite the bytes with zeros and let go of them; erasing again changes nothing."""
        if self._bytes is not None:
            self._bytes[:] = bytes(SECRET_SIZE)
            self._bytes = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.expose(), other.expose())

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret is not copied or pickled: expose() it where it must be stored")


class Uncopied:
    """What holds secrets: not copied or pickled, so that erasing reaches all of it."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not copied or pickled: it holds secrets")


def draw(rand: Rand, size: int) -> bytes:
    """Return `size` bytes from the port.

    Raises:
        ConfigError: The port gave something else, or one byte over and over.
    """
    token = rand.token(size)
    if not isinstance(token, bytes) or len(token) != size:
        found = f"{len(token)} bytes" if isinstance(token, bytes) else type(token).__name__
        raise ConfigError(f"the Rand port gave {found}, expected {size} bytes")
    if size >= SECRET_SIZE and token.count(token[:1]) == size:
        raise ConfigError("the Rand port is stuck: it gives one byte over and over")
    return token
