"""What a process needs to prove who it is, read from files and checked. Any doubt is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from choral.core.errors import CertificateError, Refused
from choral.crypto.signatures import SigningKey
from choral.pki import certificates, files, keys
from choral.pki.coordinator import CERTIFICATE, FEDERATION_FILE
from choral.pki.enrolment import Enrolment, load_enrolment
from choral.pki.federation import Federation, load_federation
from choral.pki.identity import Identity, identity
from choral.pki.names import Role
from choral.pki.requests import KEY, SIGNING_KEY
from choral.pki.tls import REVOKED

ENROLMENT: Final = "enrolment.json"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where the coordinator's files are; see `choral.pki.coordinator`."""

    federation: Path
    certificate: Path
    key: Path
    signing_key: Path
    revoked: Path

    @classmethod
    def inside(cls, folder: Path) -> ServerFiles:
        """Return the places in a folder that `choral pki coordinator` made."""
        names = (FEDERATION_FILE, CERTIFICATE, KEY, SIGNING_KEY, REVOKED)
        return cls(*(folder / name for name in names))


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """Where a client's files are, or those of an operator, a researcher or an auditor.

    Attributes:
        federation: `federation.json`, from the coordinator's operator.
        certificate: From the TLS authority.
        key: The private TLS key.
        signing_key: The private signing key.
        enrolment: `enrolment.json`, from the enrolment authority.
    """

    federation: Path
    certificate: Path
    key: Path
    signing_key: Path
    enrolment: Path

    @classmethod
    def inside(cls, folder: Path) -> ClientFiles:
        """Return the places in the folder of `choral pki request`."""
        names = (FEDERATION_FILE, CERTIFICATE, KEY, SIGNING_KEY, ENROLMENT)
        return cls(*(folder / name for name in names))


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate and its key, as TLS libraries want them.

    Attributes:
        identity: Whom the certificate speaks of.
        certificate: In PEM form.
        key: The private key in PEM form; not shown.
        authority: The TLS authority's certificate in PEM form: the only one to trust.
    """

    identity: Identity
    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """What the coordinator is, to TLS and to secure aggregation.

    Attributes:
        federation: The federation.
        tls: Its certificate.
        signing_key: Signs its messages in secure aggregation.
        revoked: Serial numbers of certificates that it must not let in.
    """

    federation: Federation
    tls: Tls
    signing_key: SigningKey
    revoked: frozenset[int]


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What a client is, to TLS and to secure aggregation.

    Attributes:
        federation: The federation.
        tls: Its certificate.
        signing_key: Signs its messages in secure aggregation; None where it is not enrolled.
        enrolment: The authority's signature over its id and key; empty where it is not enrolled.
    """

    federation: Federation
    tls: Tls
    signing_key: SigningKey | None
    enrolment: bytes


def load_server(where: ServerFiles, *, at: datetime) -> ServerCredentials:
    """Return the coordinator's credentials.

    Args:
        where: The files.
        at: Now.

    Raises:
        CertificateError: A file is missing or malformed, a private key is open to others, the
            certificate is not valid now, of another authority, of another key, no coordinator's,
            or revoked; the signing key is not the one that federation.json names; the revocation
            list is another authority's.
    """
    federation = load_federation(where.federation, at=at)
    revoked = load_revoked(where.revoked, federation=federation)
    tls = load_tls(where, federation=federation, role=Role.COORDINATOR, at=at)
    check_not_revoked(tls.identity, revoked=revoked, where=where)
    return ServerCredentials(federation, tls, load_server_key(where, federation), revoked)


def load_client(
    where: ClientFiles, *, at: datetime, role: Role = Role.CLIENT, enrolled: bool = True
) -> ClientCredentials:
    """Return the credentials of a client, or of an operator, a researcher or an auditor.

    Args:
        where: The files.
        at: Now.
        role: Which role the certificate must have.
        enrolled: Whether a client needs its enrolment: without one it joins no secure
            aggregation but the semi-honest suite. Other roles have none.

    Raises:
        CertificateError: A file is missing or malformed, a private key is open to others, the
            certificate is not valid now, of another authority, of another key or of another role;
            the enrolment is of another authority, another id or another key.
    """
    federation = load_federation(where.federation, at=at)
    tls = load_tls(where, federation=federation, role=role, at=at)
    if role != Role.CLIENT or not enrolled:
        return ClientCredentials(federation, tls, None, b"")
    key, enrolment = load_client_key(where, federation)
    check_same_id(tls.identity, enrolment, where=where)
    return ClientCredentials(federation, tls, key, enrolment.signature)


# --- the parts, which `check` takes one by one ----------------------------------------------------


def load_tls(
    where: ServerFiles | ClientFiles, *, federation: Federation, role: Role, at: datetime
) -> Tls:
    """Return a certificate and its key.

    Raises:
        CertificateError: See `load_client`.
    """
    found, who = load_certificate(where, federation=federation, role=role, at=at)
    key = load_key(where, found)
    return Tls(who, certificates.pem(found), keys.private_pem(key), federation.authority)


def load_certificate(
    where: ServerFiles | ClientFiles, *, federation: Federation, role: Role, at: datetime
) -> tuple[x509.Certificate, Identity]:
    """Return a certificate and whom it speaks of.

    Raises:
        CertificateError: Missing, malformed, of another authority or role, or not valid now.
    """
    what = str(where.certificate)
    found = certificates.load(files.read(where.certificate), where=what)
    certificates.check_issued(found, federation.tls_authority, what=what)
    who = _identity(found, what=what)
    if who.role != role or who.federation != federation.name:
        raise CertificateError(
            f"{what} has the role {who.role} in {who.federation!r}, expected {role} in "
            f"{federation.name!r}",
            hint="take the certificate that was issued for this use",
        )
    command = "coordinator" if role == Role.COORDINATOR else "sign"
    renew = f"renew it: `choral pki {command} … --renew`"
    certificates.check_dates(found, at=at, what=what, renew=renew)
    return found, who


def load_key(where: ServerFiles | ClientFiles, certificate: x509.Certificate) -> keys.TlsKey:
    """Return the private key of a certificate.

    Raises:
        CertificateError: Missing, malformed, open to others, or of another certificate.
    """
    key = keys.load_tls_key(where.key)
    if key.public_key() != certificate.public_key():
        raise CertificateError(
            f"{where.key} is not the key of {where.certificate}",
            hint="take both from one folder; a certificate fits the request it was issued for",
        )
    return key


def _identity(found: x509.Certificate, *, what: str) -> Identity:
    try:
        return identity(found)
    except Refused as error:
        raise CertificateError(f"{what}: {error.message}", hint=error.hint) from None


def load_server_key(where: ServerFiles, federation: Federation) -> SigningKey:
    """Return the coordinator's signing key.

    Raises:
        CertificateError: It cannot be used, or federation.json names another one.
    """
    key = keys.load_signing_key(where.signing_key)
    if key.public != federation.coordinator:
        raise CertificateError(
            f"{where.signing_key} is not the coordinator's key of {where.federation}",
            hint="take both from one folder; clients believe the key in their federation.json",
        )
    return key


def load_client_key(where: ClientFiles, federation: Federation) -> tuple[SigningKey, Enrolment]:
    """Return a client's signing key and its enrolment.

    Raises:
        CertificateError: One cannot be used, or they do not belong together.
    """
    enrolment = load_enrolment(where.enrolment, authority=federation.enrolment_authority)
    key = keys.load_signing_key(where.signing_key)
    if key.public != enrolment.verify_key:
        raise CertificateError(
            f"{where.enrolment} enrols another key than {where.signing_key}",
            hint="`choral pki enroll` the request that was made with this key",
        )
    return key, enrolment


def check_same_id(who: Identity, enrolment: Enrolment, *, where: ClientFiles) -> None:
    """Check that certificate and enrolment speak of one client.

    Raises:
        CertificateError: They do not.
    """
    if enrolment.id != who.id:
        raise CertificateError(
            f"{where.enrolment} is of {enrolment.id!r}, the certificate of {who.id!r}",
            hint="both come from one request",
        )


def load_revoked(path: Path, *, federation: Federation) -> frozenset[int]:
    """Return the serial numbers that the TLS authority has revoked.

    Raises:
        CertificateError: Missing, unreadable, no list, or another authority's.
    """
    return certificates.load_revoked(
        files.read(path), authority=federation.tls_authority, where=str(path)
    )


def check_not_revoked(who: Identity, *, revoked: frozenset[int], where: ServerFiles) -> None:
    """Check that the coordinator's own certificate was not revoked.

    Raises:
        CertificateError: It was.
    """
    if who.serial in revoked:
        raise CertificateError(
            f"{where.certificate} was revoked",
            hint="new keys: `choral pki coordinator … --renew --out` a new folder",
        )
