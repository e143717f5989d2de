"""Sealed messages under keys that seal once: AES-256-GCM.

Source: NIST SP 800-38D. GCM fails when a nonce repeats under one key; here the nonce is zero and
the key itself is used once, so there is nothing to count and nothing to lose.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from choral.core.errors import Refused
from choral.crypto.secret import Secret

TAG_SIZE: Final = 16
"""Bytes that sealing adds."""

_NONCE: Final = bytes(12)


class OneTimeKey:
    """A key that seals one message, or opens what its other end sealed.

    Guarantees: after `seal` the secret is erased, so that neither this object nor another one
    over the same `Secret` can seal again. A retransmission is the stored bytes. Both ends derive
    the secret, each in the direction of the message (`Purpose.TRANSPORT`), and only the sender
    seals: deriving it anew and sealing another message would break GCM.

    Args:
        secret: The key; this object takes it over.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def seal(self, message: bytes, *, aad: bytes) -> bytes:
        """Return the sealed message, 16 bytes longer, and erase the key.

        Args:
            message: What only the receiver may read.
            aad: What both must agree on: transcript and ids.

        Raises:
            Refused: This key has sealed before, or was erased.
        """
        secret = self._secret.take()  # before the cipher is made: two calls cannot both get it
        if secret is None:
            raise Refused(
                "this key has already sealed a message or was erased",
                hint="send the stored bytes again, or drop out of this attempt",
            )
        try:  # some versions of the library look at the key when they encrypt, not before
            return AESGCM(secret.expose()).encrypt(_NONCE, message, aad)
        finally:
            secret.erase()

    def open(self, sealed: bytes, *, aad: bytes) -> bytes:
        """Return the message.

        Raises:
            Refused: It was changed, cut, or sealed under another key or for another transcript.
        """
        if len(sealed) < TAG_SIZE:
            raise Refused(f"sealed message of {len(sealed)} bytes, expected at least {TAG_SIZE}")
        try:
            return AESGCM(self._secret.expose()).decrypt(_NONCE, sealed, aad)
        except InvalidTag:
            raise Refused(
                "a sealed message does not open: it was changed, or is for another transcript"
            ) from None

    def erase(self) -> None:
        """Erase the key."""
        self._secret.erase()

    def __repr__(self) -> str:
        return "OneTimeKey(…)"
