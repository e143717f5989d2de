"""Private keys and their files. Fresh ones come from the system, by way of `cryptography`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from choral.core.errors import CertificateError
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.pki import files

TlsKey: TypeAlias = ec.EllipticCurvePrivateKey
TlsPublicKey: TypeAlias = ec.EllipticCurvePublicKey


def new_tls_key() -> TlsKey:
    """Return a fresh key for TLS: ECDSA over P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def new_signing_key() -> ed25519.Ed25519PrivateKey:
    """Return a fresh Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: TlsKey | ed25519.Ed25519PrivateKey) -> bytes:
    """Return a private key as it rests in a file: PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def signing_key(key: ed25519.Ed25519PrivateKey) -> SigningKey:
    """Return a key as the protocols use it."""
    return SigningKey(Secret(key.private_bytes_raw()))


def load_tls_key(path: Path) -> TlsKey:
    """Return the TLS key in a file.

    Raises:
        CertificateError: Missing, unreadable, open to others, or no such key.
    """
    key = _private(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise CertificateError(
            f"{path} holds no ECDSA key over P-256", hint="`choral pki` makes it"
        )
    return key


def load_signing_key(path: Path) -> SigningKey:
    """Return the signing key in a file.

    Raises:
        CertificateError: Missing, unreadable, open to others, or no such key.
    """
    key = _private(path)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise CertificateError(f"{path} holds no Ed25519 key", hint="`choral pki` makes it")
    return signing_key(key)


def is_p256(key: object) -> bool:
    """Return whether a public key is one for ECDSA over P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def verify_key_pem(public: bytes) -> bytes:
    """Return a 32-byte Ed25519 public key as a PEM file."""
    return ed25519.Ed25519PublicKey.from_public_bytes(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_verify_key(path: Path) -> bytes:
    """Return the 32 bytes of the Ed25519 public key in a PEM file.

    Raises:
        CertificateError: Missing, unreadable, or no such key.
    """
    data = files.read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise CertificateError(
            f"{path} holds no Ed25519 public key",
            hint="expected `enrolment/authority.pem` of `choral pki init`",
        )
    return key.public_bytes_raw()


def key_digest(key: TlsPublicKey) -> str:
    """Return the SHA-256 of a public key in its standard form, in hexadecimal digits."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _private(path: Path) -> object:
    data = files.read_private(path)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(
            f"{path} is encrypted", hint="decrypt it; its folder and mode protect it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} holds no private key in PEM form") from None
