"""X.509: the TLS authority, the certificates it issues, its revocation list. Source: RFC 5280."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from choral.core.checks import whole
from choral.core.errors import CertificateError
from choral.pki.keys import TlsKey, TlsPublicKey, is_p256
from choral.pki.names import Role, authority_uri, is_name, uri_of, utc, when

BACKDATE: Final = timedelta(hours=1)
"""How much earlier than its issue a certificate begins, for clocks that are behind."""

MOST_DAYS: Final = 36_500
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for a certificate that is malformed or lacks an extension."""

_LONGEST_ATTRIBUTE: Final = 64
_SHA256: Final = hashes.SHA256()


def days_from(at: datetime, days: int) -> datetime:
    """Return the time that many days later.

    Raises:
        ConfigError: Not 1 to 36 500 days.
    """
    return utc(at) + timedelta(days=whole("days", days, least=1, most=MOST_DAYS))


def issue_authority(key: TlsKey, *, federation: str, at: datetime, days: int) -> x509.Certificate:
    """Return the certificate of a TLS authority: it signs leaves and lists, and no authority."""
    name = x509.Name(
        [
            *_attribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, "Choral TLS authority"),
        ]
    )
    public = key.public_key()
    start, end = utc(at) - BACKDATE, days_from(at, days)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    uri = x509.UniformResourceIdentifier(authority_uri(federation))
    return (
        _builder(subject=name, issuer=name, public=public, start=start, end=end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(key, _SHA256)
    )


def issue(
    public: TlsPublicKey,
    *,
    authority: x509.Certificate,
    key: TlsKey,
    role: Role,
    id: str,
    hosts: Sequence[x509.GeneralName] = (),
    at: datetime,
    days: int,
) -> x509.Certificate:
    """Return the certificate of a party. It never outlives its authority.

    Args:
        public: The party's own key.
        authority: Who issues it.
        key: The authority's private key.
        role: `coordinator` gets the purpose serverAuth alone, every other one clientAuth alone.
        id: Of the party.
        hosts: Names by which the coordinator is reached; none for others.
        at: Now.
        days: How long it is valid.

    Raises:
        CertificateError: The authority is not valid now.
        ConfigError: Not 1 to 36 500 days.
    """
    check_authority_dates(authority, at=at)
    federation = federation_of(authority)
    subject = [
        *_attribute(NameOID.ORGANIZATION_NAME, federation),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(role)),
        *_attribute(NameOID.COMMON_NAME, id),
    ]
    uri = x509.UniformResourceIdentifier(uri_of(federation=federation, role=role, id=id))
    return (
        _builder(
            subject=x509.Name(subject),
            issuer=authority.subject,
            public=public,
            start=max(utc(at) - BACKDATE, authority.not_valid_before_utc),
            end=min(days_from(at, days), authority.not_valid_after_utc),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose_of(role)]), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
        .add_extension(_issued_by(key.public_key()), critical=False)
        .sign(key, _SHA256)
    )


def revocation_list(
    revoked: Mapping[int, datetime], *, authority: x509.Certificate, key: TlsKey, at: datetime
) -> bytes:
    """Return the revocation list, in PEM form. It stays good until the authority's end.

    Args:
        revoked: Serial number to when it was revoked.
        authority: Whose list it is.
        key: The authority's private key.
        at: Now.
    """
    start = max(utc(at) - BACKDATE, authority.not_valid_before_utc)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(start)
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(len(revoked) + 1), critical=False)
        .add_extension(_issued_by(key.public_key()), critical=False)
    )
    for serial, since in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(utc(since))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, _SHA256).public_bytes(serialization.Encoding.PEM)


def load(data: bytes, *, where: str) -> x509.Certificate:
    """Return the one certificate of a PEM file.

    Raises:
        CertificateError: It holds none, more than one, or a malformed one.
    """
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise CertificateError(f"{where} holds no certificate in PEM form") from None
    if len(found) != 1:
        raise CertificateError(f"{where} holds {len(found)} certificates, expected one")
    return found[0]


def load_authority(data: bytes, *, where: str) -> x509.Certificate:
    """Return the certificate of a TLS authority.

    Raises:
        CertificateError: It is none that `issue_authority` may have made.
    """
    found = load(data, where=where)
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
        good = constraints.ca and constraints.path_length == 0
        good = good and usage.key_cert_sign and usage.crl_sign and is_p256(found.public_key())
        federation_of(found)
        found.verify_directly_issued_by(found)
    except (*UNREADABLE, InvalidSignature):
        good = False
    if not good:
        raise CertificateError(
            f"{where} is no TLS authority", hint="expected `tls/authority.pem` of `choral pki init`"
        )
    return found


def load_revoked(data: bytes, *, authority: x509.Certificate, where: str) -> frozenset[int]:
    """Return the revoked serial numbers of an authority's list.

    Raises:
        CertificateError: It is no list, or not this authority's.
    """
    try:
        found = x509.load_pem_x509_crl(data)
        public = authority.public_key()
        good = is_p256(public) and found.is_signature_valid(public)  # type: ignore[arg-type]
        good = good and found.issuer == authority.subject
    except UNREADABLE:
        raise CertificateError(f"{where} holds no revocation list in PEM form") from None
    if not good:
        raise CertificateError(
            f"{where} is the revocation list of another authority",
            hint="expected `tls/revoked.pem` of this federation's authority",
        )
    return frozenset(entry.serial_number for entry in found)


def check_dates(certificate: x509.Certificate, *, at: datetime, what: str, renew: str) -> None:
    """Check that a certificate is valid now.

    Args:
        certificate: Which one.
        at: Now.
        what: What to call it in a message.
        renew: The hint where it has expired.

    Raises:
        CertificateError: It has expired, or begins later.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if utc(at) < start:
        raise CertificateError(
            f"{what} is not valid before {when(start)}; the clock here says {when(at)}",
            hint="set the clock of this machine",
        )
    if utc(at) > end:
        raise CertificateError(
            f"{what} expired at {when(end)}; the clock here says {when(at)}", hint=renew
        )


def check_authority_dates(authority: x509.Certificate, *, at: datetime) -> None:
    """Check that a TLS authority is valid now.

    Raises:
        CertificateError: It has expired, or begins later.
    """
    renew = "make new authorities by `choral pki init`, and new certificates for everybody"
    check_dates(authority, at=at, what="the TLS authority", renew=renew)


def check_issued(certificate: x509.Certificate, authority: x509.Certificate, *, what: str) -> None:
    """Check that an authority issued a certificate.

    Raises:
        CertificateError: Another one did.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        raise CertificateError(
            f"{what} was not issued by this federation's TLS authority",
            hint="take the certificate and federation.json from the same federation",
        ) from None


def federation_of(authority: x509.Certificate) -> str:
    """Return the name of the federation whose TLS authority this is; `ValueError` if of none."""
    (uri,) = uris_of(authority)
    name = uri.removeprefix("choral://").removesuffix("/authority")
    if not is_name(name) or uri != authority_uri(name):
        raise ValueError("not a URI of an authority")
    return name


def uris_of(certificate: x509.Certificate) -> list[str]:
    """Return the URIs among a certificate's alternative names."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and IP addresses among a certificate's alternative names."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def purpose_of(role: Role) -> x509.ObjectIdentifier:
    """Return the one purpose of a role's certificates."""
    is_server = role == Role.COORDINATOR
    return ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, in hexadecimal digits."""
    return certificate.fingerprint(_SHA256).hex()


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public: TlsPublicKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _attribute(kind: x509.ObjectIdentifier, value: str) -> Iterable[x509.NameAttribute[str]]:
    """Yield an attribute of a subject, where it is not too long for one. People read it."""
    if len(value) <= _LONGEST_ATTRIBUTE:
        yield x509.NameAttribute(kind, value)


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


def _issued_by(public: TlsPublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
