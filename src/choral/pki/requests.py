"""A party's keys, made where they stay, and the request that leaves its machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from choral.core.errors import CertificateError, ConfigError, Refused
from choral.crypto.signatures import (
    SIGNATURE_SIZE,
    VERIFY_KEY_SIZE,
    Statement,
    statement,
    verify,
)
from choral.pki import files, keys
from choral.pki.certificates import UNREADABLE
from choral.pki.documents import from_hex, read_document, write_document
from choral.pki.names import REQUESTED, Role, party_id

KIND: Final = "request"
KEY: Final = "key.pem"
SIGNING_KEY: Final = "signing_key.pem"
REQUEST: Final = "request.json"

_FIELDS: Final = dict.fromkeys(
    ("id", "role", "certificate_request", "verify_key", "tls_proof", "signing_proof"), str
)
_ECDSA: Final = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose proofs were checked.

    Attributes:
        id: Whom the certificate should speak of.
        role: Which role it should have.
        public: The party's public TLS key.
        verify_key: The party's verification key, 32 bytes.
        fingerprint: SHA-256 of the file, in hexadecimal digits, for people to compare.
    """

    id: str
    role: Role
    public: keys.TlsPublicKey
    verify_key: bytes
    fingerprint: str


def make_request(folder: Path, *, id: str, role: Role = Role.CLIENT) -> Request:
    """Make a party's two keys in a folder of its own, and the request beside them.

    Args:
        folder: It is made where it does not exist. The keys never leave it.
        id: Of the party; see `party_id`.
        role: Which role it asks for.

    Returns:
        What the request says.

    Raises:
        ConfigError: The id or the role cannot be asked for.
        CertificateError: One of the files is there already; nothing was changed.
    """
    name, role = party_id(id), requested_role(role)
    files.private_folder(folder)
    files.absent(folder / KEY, folder / SIGNING_KEY, folder / REQUEST)
    tls, signing = keys.new_tls_key(), keys.new_signing_key()
    verify_key = signing.public_key().public_bytes_raw()
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if len(name) <= 64 else []
    csr = x509.CertificateSigningRequestBuilder(x509.Name(subject)).sign(tls, hashes.SHA256())
    what = _proof(id=name, role=role, verify_key=verify_key, csr=csr)
    data = write_document(
        KIND,
        {
            "id": name,
            "role": str(role),
            "certificate_request": csr.public_bytes(serialization.Encoding.PEM).decode(),
            "verify_key": verify_key.hex(),
            "tls_proof": tls.sign(what, _ECDSA).hex(),
            "signing_proof": signing.sign(what).hex(),
        },
    )
    files.write_new(folder / KEY, keys.private_pem(tls), private=True)
    files.write_new(folder / SIGNING_KEY, keys.private_pem(signing), private=True)
    files.write_new(folder / REQUEST, data)
    return parse_request(data, where=str(folder / REQUEST))


def load_request(path: Path) -> Request:
    """Return the request in a file, checked as by `parse_request`.

    Raises:
        CertificateError: The file is missing, unreadable or no request.
        Refused: A proof is wrong, or the id or role is not allowed.
    """
    return parse_request(files.read(path), where=str(path))


def parse_request(data: bytes, *, where: str) -> Request:
    """Return the request in the bytes of a file.

    Guarantees: whoever made it has both private keys, and meant this id, this role and both keys
    together: each key signs all of it. That it comes from whom it names, only people can tell.

    Raises:
        CertificateError: It is no request.
        Refused: A proof is wrong, or the id or role is not allowed.
    """
    found = read_document(data, kind=KIND, fields=_FIELDS, where=where)
    try:
        name, role = party_id(found["id"]), requested_role(found["role"])
    except ConfigError as error:
        raise Refused(f"{where}: {error.message}", hint=error.hint) from None
    csr, public = _csr(found["certificate_request"], where=where)
    verify_key = from_hex(found["verify_key"], size=VERIFY_KEY_SIZE, name="verify_key", where=where)
    tls_proof = from_hex(found["tls_proof"], size=0, name="tls_proof", where=where)
    signing_proof = from_hex(
        found["signing_proof"], size=SIGNATURE_SIZE, name="signing_proof", where=where
    )
    what = _proof(id=name, role=role, verify_key=verify_key, csr=csr)
    try:
        verify(verify_key, what, signing_proof)
        public.verify(tls_proof, what, _ECDSA)
    except (Refused, InvalidSignature):
        raise Refused(
            f"{where}: its keys did not sign what it says",
            hint="it was changed on the way: ask for it again, `choral pki request` made it whole",
        ) from None
    return Request(name, role, public, verify_key, hashlib.sha256(data).hexdigest())


def requested_role(role: str) -> Role:
    """Return a role that may be asked for.

    Raises:
        ConfigError: It may not, or is no role.
    """
    if role not in REQUESTED:
        known = ", ".join(REQUESTED)
        raise ConfigError(f"role {str(role)!r} cannot be requested", hint=f"known: {known}")
    return Role(role)


def _csr(text: str, *, where: str) -> tuple[x509.CertificateSigningRequest, keys.TlsPublicKey]:
    """Return a certificate request and its key; nothing but the key is taken from it."""
    try:
        csr = x509.load_pem_x509_csr(text.encode())
        public, signed = csr.public_key(), csr.is_signature_valid
    except UNREADABLE:
        raise CertificateError(f"{where}: malformed `certificate_request`") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not keys.is_p256(public):
        raise Refused(f"{where}: its TLS key is not one for ECDSA over P-256")
    if not signed:
        raise Refused(f"{where}: its TLS key did not sign its certificate request")
    return csr, public


def _proof(
    *, id: str, role: Role, verify_key: bytes, csr: x509.CertificateSigningRequest
) -> Statement:
    """Return what both keys sign."""
    der = csr.public_bytes(serialization.Encoding.DER)
    what = (id.encode(), str(role).encode(), verify_key, hashlib.sha256(der).digest())
    return statement("pki request", *what)
