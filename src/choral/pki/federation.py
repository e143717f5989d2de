"""`federation.json`: the public facts that every party must have before it trusts anybody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from choral.core.errors import CertificateError, Refused
from choral.crypto.signatures import VERIFY_KEY_SIZE, check_verify_key
from choral.pki import certificates, files
from choral.pki.documents import from_hex, read_document, write_document

KIND: Final = "federation"


@dataclass(frozen=True, slots=True)
class Federation:
    """What a party knows of its federation from elsewhere than the network.

    Attributes:
        name: Of the federation.
        tls_authority: Certificate of the authority that issues certificates.
        enrolment_authority: Verification key of the enrolment authority, 32 bytes.
        coordinator: Verification key by which the coordinator signs in secure aggregation, 32
            bytes.
        fingerprint: SHA-256 of the file, in hexadecimal digits, for people to compare.
    """

    name: str
    tls_authority: x509.Certificate
    enrolment_authority: bytes
    coordinator: bytes
    fingerprint: str

    @property
    def authority(self) -> bytes:
        """The TLS authority's certificate in PEM form, as TLS libraries want it."""
        return certificates.pem(self.tls_authority)


def write_federation(
    tls_authority: x509.Certificate, *, enrolment_authority: bytes, coordinator: bytes
) -> bytes:
    """Return the bytes of `federation.json`.

    Raises:
        CertificateError: Both keys are one, or one is no key.
    """
    fields = {
        "name": certificates.federation_of(tls_authority),
        "tls_authority": certificates.pem(tls_authority).decode(),
        "enrolment_authority": enrolment_authority.hex(),
        "coordinator": coordinator.hex(),
    }
    data = write_document(KIND, fields)
    parse_federation(data, where="federation.json")
    return data


def parse_federation(data: bytes, *, where: str) -> Federation:
    """Return the federation in the bytes of a `federation.json`; dates are not looked at.

    Raises:
        CertificateError: It is no such file, or contradicts itself.
    """
    names = ("name", "tls_authority", "enrolment_authority", "coordinator")
    found = read_document(data, kind=KIND, fields=dict.fromkeys(names, str), where=where)
    authority = certificates.load_authority(found["tls_authority"].encode(), where=where)
    if certificates.federation_of(authority) != found["name"]:
        raise CertificateError(f"{where} and its TLS authority name different federations")
    public = {}
    for name in ("enrolment_authority", "coordinator"):
        public[name] = from_hex(found[name], size=VERIFY_KEY_SIZE, name=name, where=where)
        try:
            check_verify_key(public[name])
        except Refused as error:
            raise CertificateError(f"{where}: `{name}`: {error.message}") from None
    if public["enrolment_authority"] == public["coordinator"]:
        raise CertificateError(
            f"{where}: the coordinator enrols its own clients",
            hint="secure aggregation needs an enrolment authority of somebody else's",
        )
    return Federation(
        name=found["name"],
        tls_authority=authority,
        **public,
        fingerprint=hashlib.sha256(data).hexdigest(),
    )


def load_federation(path: Path, *, at: datetime) -> Federation:
    """Return the federation in a file.

    Args:
        path: A `federation.json`.
        at: Now.

    Raises:
        CertificateError: Missing, unreadable, no such file, or its TLS authority is not valid now.
    """
    found = parse_federation(files.read(path), where=str(path))
    certificates.check_authority_dates(found.tls_authority, at=at)
    return found


def check_authority(path: Path, federation: Federation, *, where: Path) -> None:
    """Refuse a federation that names another TLS authority than one that came another way.

    Args:
        path: The certificate that came another way.
        federation: From `federation.json`.
        where: That file.

    Raises:
        CertificateError: They differ, or the certificate cannot be read.
    """
    if certificates.load_authority(files.read(path), where=str(path)) != federation.tls_authority:
        raise CertificateError(
            f"{where} names another TLS authority than {path}",
            hint="take both from the federation's operator, by a way that you trust",
        )
