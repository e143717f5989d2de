"""Who is at the other end: from the certificate that TLS checked to an id and a role."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from choral.core.errors import CertificateError, Refused
from choral.pki import certificates
from choral.pki.federation import Federation
from choral.pki.names import Role, parse_uri

_ISSUED: Final = "expected a certificate that `choral pki` issued"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate speaks of.

    Attributes:
        federation: Name of the federation.
        role: What its holder may do.
        id: Its id, of `pki request --id`.
        serial: Serial number of the certificate.
        fingerprint: SHA-256 of the certificate, in hexadecimal digits.
        start: When it begins.
        end: When it expires.
    """

    federation: str
    role: Role
    id: str
    serial: int
    fingerprint: str
    start: datetime
    end: datetime


def identity_of(certificate: bytes) -> Identity:
    """Return whom a certificate speaks of.

    Guarantees: exactly one certificate, of a party and not of an authority, with exactly one URI
    that names a party, and with the purpose of its role alone. Anything else is refused. Who
    issued it, and when it is valid, is not looked at: TLS does that, and `admit`.

    Args:
        certificate: In PEM form.

    Raises:
        Refused: It names nobody.
    """
    try:
        return identity(certificates.load(certificate, where="the certificate"))
    except CertificateError as error:
        raise Refused(error.message) from None


def identity(found: x509.Certificate) -> Identity:
    """Return whom a parsed certificate speaks of, as `identity_of` does.

    Raises:
        Refused: It names nobody.
    """
    try:
        extensions = found.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = certificates.uris_of(found)
    except certificates.UNREADABLE:
        raise Refused("the certificate names no party", hint=_ISSUED) from None
    if constraints.ca or len(uris) != 1:
        raise Refused("the certificate names no party", hint=_ISSUED)
    federation, role, name = parse_uri(uris[0])
    is_coordinator = role == Role.COORDINATOR
    if list(purposes) != [certificates.purpose_of(role)] or (len(names) > 1) != is_coordinator:
        raise Refused(
            f"the certificate of {name!r} has not the form of one for the role {role}", hint=_ISSUED
        )
    return Identity(
        federation=federation,
        role=role,
        id=name,
        serial=found.serial_number,
        fingerprint=certificates.fingerprint(found),
        start=found.not_valid_before_utc,
        end=found.not_valid_after_utc,
    )


def admit(
    certificate: bytes, *, federation: Federation, revoked: frozenset[int], at: datetime
) -> Identity:
    """Return who may come in with a peer's certificate, from a connection that TLS checked.

    TLS looks at a certificate when a connection opens. This looks at it whenever it is asked, so
    that one that expires or is revoked later is refused on an open connection, too.

    Args:
        certificate: The peer's, in PEM form.
        federation: Whose authority must have issued it.
        revoked: Serial numbers that are not let in.
        at: Now.

    Raises:
        Refused: Not issued by this federation's authority, not valid now, revoked, or the
            certificate of a coordinator or of nobody.
    """
    try:
        found = certificates.load(certificate, where="the peer's certificate")
        what = "the peer's certificate"
        certificates.check_issued(found, federation.tls_authority, what=what)
        certificates.check_dates(found, at=at, what=what, renew="its owner must renew it")
    except CertificateError as error:
        raise Refused(error.message, hint=error.hint) from None
    who = identity(found)
    if who.federation != federation.name:
        raise Refused(f"{who.id!r} belongs to the federation {who.federation!r}")
    if who.role == Role.COORDINATOR:
        raise Refused("a coordinator's certificate lets nobody in")
    if who.serial in revoked:
        raise Refused(f"the certificate of {who.id!r} was revoked")
    return who
