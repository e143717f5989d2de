"""Signatures over labelled statements: Ed25519. Source: RFC 8032."""

from __future__ import annotations

from typing import Final, NewType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from choral.core.errors import Refused
from choral.core.ports import Rand
from choral.crypto.encoding import frame
from choral.crypto.secret import Secret, Uncopied

VERIFY_KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
STATEMENT_LABEL: Final = "choral statement v1"

FIELD: Final = 2**255 - 19
_SIGN_BIT: Final = 2**255
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
LOW_ORDER: Final = frozenset({0, 1, FIELD - 1, _ORDER_8, FIELD - _ORDER_8})
"""The y coordinates of the eight points whose order divides 8: under such a key one signature
can fit many statements."""

Statement = NewType("Statement", bytes)
"""Bytes that `statement` made: what a signature covers."""


def statement(label: str, *fields: bytes) -> Statement:
    """Return the bytes to sign: a label, then fields such as the transcript hash.

    Args:
        label: What is stated; a constant of the protocol. A signature under one label says
            nothing under another.
        fields: What it is stated about, in the order that the protocol fixes.
    """
    return Statement(frame(STATEMENT_LABEL, label.encode(), *fields))


class SigningKey(Uncopied):
    """An Ed25519 key pair.

    Args:
        secret: The 32-byte private seed; `erase` erases it.
    """

    __slots__ = ("_private", "_secret", "public")

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._private: Ed25519PrivateKey | None = Ed25519PrivateKey.from_private_bytes(
            secret.expose()
        )
        self.public: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def random(cls, rand: Rand) -> SigningKey:
        """Return a fresh pair from the port of secret randomness."""
        return cls(Secret.random(rand))

    def sign(self, what: Statement) -> bytes:
        """Return the signature, 64 bytes; equal statements give equal signatures.

        Raises:
            Refused: The key was erased.
        """
        if self._private is None:
            raise Refused("the signing key was erased")
        return self._private.sign(what)

    def erase(self) -> None:
        """Erase the private seed; the public key stays."""
        self._secret.erase()
        self._private = None

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"


def check_verify_key(public: bytes) -> None:
    """Refuse bytes that are no canonical Ed25519 public key, or one of low order.

    Raises:
        Refused: Not 32 bytes, y not below 2^255 - 19, or a point whose order divides 8.
    """
    if len(public) != VERIFY_KEY_SIZE:
        raise Refused(f"Ed25519 public key of {len(public)} bytes, expected {VERIFY_KEY_SIZE}")
    y = int.from_bytes(public, "little") & (_SIGN_BIT - 1)
    if y >= FIELD:
        raise Refused("Ed25519 public key is not in canonical form: expected y below 2^255 - 19")
    if y in LOW_ORDER:
        raise Refused("Ed25519 public key of low order: its signatures prove nothing")


def verify(public: bytes, what: Statement, signature: bytes) -> None:
    """Check that the owner of `public` signed a statement.

    Raises:
        Refused: No valid key, or no valid signature of this statement under it.
    """
    check_verify_key(public)
    if len(signature) != SIGNATURE_SIZE:
        raise Refused(f"signature of {len(signature)} bytes, expected {SIGNATURE_SIZE}")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, what)
    except (InvalidSignature, ValueError):
        raise Refused(f"a signature does not verify under the key {public.hex()}") from None
