"""Shared secrets between two parties: X25519. Source: RFC 7748."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from choral.core.errors import Refused
from choral.core.ports import Rand
from choral.crypto.secret import Secret, Uncopied

PUBLIC_SIZE: Final = 32
"""Bytes of a public key."""

FIELD: Final = 2**255 - 19

_ORDER_8: Final = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER: Final = frozenset({0, 1, FIELD - 1, *_ORDER_8})
"""All u whose point has an order that divides 8, on the curve or on its twist: with each of them
every private key gives zero."""


class AgreementKey(Uncopied):
    """An X25519 key pair.

    What is shared out by Shamir is `secret`: the 32 random bytes before clamping. Whoever puts
    them together again gets the same public key from them, and so can check them.

    Args:
        secret: The private key; `erase` erases it.
    """

    __slots__ = ("_private", "public", "secret")

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(
            secret.expose()
        )
        self.public: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def random(cls, rand: Rand) -> AgreementKey:
        """Return a fresh pair from the port of secret randomness."""
        return cls(Secret.random(rand))

    def exchange(self, peer: bytes) -> Secret:
        """Return the secret shared with the owner of a public key; derive keys from it.

        Raises:
            Refused: `check_public_key` refuses the peer's key, or this pair was erased.
        """
        check_public_key(peer)
        if self._private is None:
            raise Refused("the key pair was erased", hint="a new attempt needs new keys")
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            shared = bytes(PUBLIC_SIZE)
        # OpenSSL refuses an all-zero result; a backend that did not would be caught here.
        if not any(shared):
            raise Refused("X25519 public key of low order: everybody would know the secret")
        return Secret(shared)

    def erase(self) -> None:
        """Erase the private key; the public one stays."""
        self.secret.erase()
        self._private = None

    def __repr__(self) -> str:
        return f"AgreementKey(public={self.public.hex()})"


def check_public_key(peer: bytes) -> None:
    """Refuse bytes that are no canonical X25519 public key, or one of low order.

    RFC 7748 lets a receiver ignore the top bit and reduce modulo 2^255 - 19, so that one key has
    several spellings. Here a key is its bytes, and two spellings would pass for two keys.

    Raises:
        Refused: Not 32 bytes, not below 2^255 - 19, or a point whose order divides 8.
    """
    if len(peer) != PUBLIC_SIZE:
        raise Refused(f"X25519 public key of {len(peer)} bytes, expected {PUBLIC_SIZE}")
    u = int.from_bytes(peer, "little")
    if u >= FIELD:
        raise Refused("X25519 public key is not in canonical form: expected less than 2^255 - 19")
    if u in LOW_ORDER:
        raise Refused("X25519 public key of low order: everybody would know the secret")
