"""The coordinator's folder: its certificate and keys, and what it must hand out and know.

```
OUT/certificate.pem     its certificate
OUT/key.pem             its private TLS key
OUT/signing_key.pem     its private key for the messages of secure aggregation
OUT/revoked.pem         a copy of the TLS authority's revocation list
OUT/federation.json     the public facts that every party needs
```
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from choral.crypto.signatures import SigningKey
from choral.pki import certificates, files, keys
from choral.pki.federation import Federation, parse_federation, write_federation
from choral.pki.names import COORDINATOR, Role, hosts
from choral.pki.requests import KEY, SIGNING_KEY
from choral.pki.tls import CERTIFICATE_DAYS, REVOKED, TlsAuthority, issue_party

CERTIFICATE: Final = "certificate.pem"
FEDERATION_FILE: Final = "federation.json"


def issue_coordinator(
    authority: TlsAuthority,
    out: Path,
    *,
    names: Iterable[str],
    enrolment_authority: bytes,
    at: datetime,
    days: int = CERTIFICATE_DAYS,
    renew: bool = False,
) -> tuple[Federation, x509.Certificate]:
    """Make the coordinator's folder.

    Args:
        authority: Who issues the certificate.
        out: The folder; it can be moved to the coordinator's machine as it is.
        names: DNS names and IP addresses by which clients reach the coordinator.
        enrolment_authority: Verification key of the enrolment authority, 32 bytes.
        at: Now.
        days: How long the certificate is valid; never longer than the authority.
        renew: Whether there was a coordinator before. Keys that are in `out` are used again, so
            that `federation.json` stays the same.

    Returns:
        What is in its `federation.json`, and its certificate.

    Raises:
        ConfigError: A name is no host's, or there is none.
        Refused: There was a coordinator before, or its key was revoked.
        CertificateError: Keys are there already and `renew` is not set; or a file cannot be used.
    """
    found = hosts(names)
    files.private_folder(out)
    tls, signing, fresh = _keys(out, renew=renew)
    federation = write_federation(
        authority.certificate, enrolment_authority=enrolment_authority, coordinator=signing.public
    )
    certificate = issue_party(
        authority,
        tls.public_key(),
        role=Role.COORDINATOR,
        id=COORDINATOR,
        hosts=found,
        at=at,
        days=days,
        renew=renew,
    )
    for name, pem in fresh.items():
        files.write_new(out / name, pem, private=True)
    files.write(out / CERTIFICATE, certificates.pem(certificate))
    files.write(out / REVOKED, files.read(authority.folder / REVOKED))
    files.write(out / FEDERATION_FILE, federation)
    return parse_federation(federation, where=str(out / FEDERATION_FILE)), certificate


def _keys(out: Path, *, renew: bool) -> tuple[keys.TlsKey, SigningKey, dict[str, bytes]]:
    """Return the coordinator's keys, and by file name those that are new."""
    places = (out / KEY, out / SIGNING_KEY)
    if renew and all(place.exists() for place in places):
        return keys.load_tls_key(places[0]), keys.load_signing_key(places[1]), {}
    files.absent(*places)
    tls, signing = keys.new_tls_key(), keys.new_signing_key()
    fresh = {KEY: keys.private_pem(tls), SIGNING_KEY: keys.private_pem(signing)}
    return tls, keys.signing_key(signing), fresh
