"""The TLS authority: it issues, renews and revokes certificates.

```
DIR/tls/authority.pem     its certificate, public
DIR/tls/key.pem           its private key
DIR/tls/register.jsonl    what it issued and revoked
DIR/tls/revoked.pem       its revocation list, public
DIR/tls/issued/ID.pem     the newest certificate of each id
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from choral.core.errors import CertificateError, Refused, UnknownName, did_you_mean
from choral.pki import certificates, files, keys, register
from choral.pki.names import Role, federation_name, utc, when
from choral.pki.register import Entry, Event, Held
from choral.pki.requests import Request, requested_role

FOLDER: Final = "tls"
AUTHORITY: Final = "authority.pem"
KEY: Final = "key.pem"
REGISTER: Final = "register.jsonl"
REVOKED: Final = "revoked.pem"
ISSUED: Final = "issued"

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class TlsAuthority:
    """An authority with its private key.

    Attributes:
        folder: `DIR/tls`.
        certificate: Its own.
        key: Its private key.
    """

    folder: Path
    certificate: x509.Certificate
    key: keys.TlsKey

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return certificates.federation_of(self.certificate)

    @property
    def register(self) -> Path:
        """What it issued and revoked."""
        return self.folder / REGISTER


def init_tls(
    folder: Path, *, federation: str, at: datetime, days: int = AUTHORITY_DAYS
) -> TlsAuthority:
    """Make a TLS authority in `folder/tls`; whole, or not at all.

    Raises:
        ConfigError: A bad name or number of days.
        CertificateError: It is there already, or cannot be made.
    """
    key = keys.new_tls_key()
    certificate = certificates.issue_authority(
        key, federation=federation_name(federation), at=at, days=days
    )
    revoked = certificates.revocation_list({}, authority=certificate, key=key, at=at)
    with files.new_folder(folder / FOLDER) as inside:
        files.private_folder(inside / ISSUED)
        files.write(inside / KEY, keys.private_pem(key), private=True)
        files.write(inside / AUTHORITY, certificates.pem(certificate))
        files.write(inside / REVOKED, revoked)
        files.write(inside / REGISTER, b"")
    return TlsAuthority(folder / FOLDER, certificate, key)


def open_tls(folder: Path) -> TlsAuthority:
    """Return the TLS authority in `folder/tls`.

    Raises:
        CertificateError: There is none, or one of its files cannot be used.
    """
    inside = folder / FOLDER
    if not inside.is_dir():
        raise CertificateError(
            f"{folder} holds no TLS authority", hint=f"`choral pki init {folder}` makes one"
        )
    where = inside / AUTHORITY
    certificate = certificates.load_authority(files.read(where), where=str(where))
    key = keys.load_tls_key(inside / KEY)
    if key.public_key() != certificate.public_key():
        raise CertificateError(
            f"{inside / KEY} is not the key of {AUTHORITY}",
            hint="restore the authority's folder from a copy",
        )
    return TlsAuthority(inside, certificate, key)


def sign(
    authority: TlsAuthority,
    request: Request,
    *,
    at: datetime,
    days: int = CERTIFICATE_DAYS,
    role: Role = Role.CLIENT,
    renew: bool = False,
) -> x509.Certificate:
    """Issue the certificate that a request asks for.

    Args:
        authority: Who issues it.
        request: A checked one.
        at: Now.
        days: How long it is valid; never longer than the authority.
        role: What the authority means to give. A request cannot give itself more.
        renew: Whether the id may have had a certificate before.

    Raises:
        Refused: It asks for another role than `role`, or than the id has; its id has had a
            certificate already; its key was revoked, or belongs to another id.
        CertificateError: The authority is not valid now, or a file cannot be written.
    """
    role = requested_role(role)
    if request.role != role:
        raise Refused(
            f"{request.id!r} asks for the role {request.role}, not {role}",
            hint=f"if that is what you want to give: --role {request.role}",
        )
    return issue_party(
        authority, request.public, role=role, id=request.id, at=at, days=days, renew=renew
    )


def issue_party(
    authority: TlsAuthority,
    public: keys.TlsPublicKey,
    *,
    role: Role,
    id: str,
    hosts: Sequence[x509.GeneralName] = (),
    at: datetime,
    days: int,
    renew: bool,
) -> x509.Certificate:
    """Issue a certificate, record it, and keep it as `issued/ID.pem`.

    The record comes first: a certificate that is not in the register could not be revoked.

    Raises:
        Refused: See `sign`.
        CertificateError: See `sign`.
    """
    with files.locked(authority.register):
        issued = register.held(register.read(authority.register))
        digest = keys.key_digest(public)
        _check_new(issued, id=id, role=role, key=digest, renew=renew)
        certificate = certificates.issue(
            public,
            authority=authority.certificate,
            key=authority.key,
            role=role,
            id=id,
            hosts=hosts,
            at=at,
            days=days,
        )
        entry = Entry(
            event=Event.ISSUED,
            at=utc(at),
            id=id,
            role=role,
            key=digest,
            serial=certificate.serial_number,
            fingerprint=certificates.fingerprint(certificate),
            end=certificate.not_valid_after_utc,
        )
        register.append(authority.register, entry)
        files.write(authority.folder / ISSUED / f"{id}.pem", certificates.pem(certificate))
    return certificate


def _check_new(issued: Sequence[Held], *, id: str, role: Role, key: str, renew: bool) -> None:
    """Refuse what must not be issued after what was issued before."""
    for old in issued:
        if old.entry.key == key and old.revoked is not None:
            raise Refused(
                f"the key of {old.entry.id!r} was revoked at {when(old.revoked)}",
                hint="new keys in a new folder are needed",
            )
        if old.entry.key == key and old.entry.id != id:
            raise Refused(
                f"that TLS key belongs to {old.entry.id!r}", hint="every id needs keys of its own"
            )
        if old.entry.id != id and old.entry.id.casefold() == id.casefold():
            raise Refused(
                f"{id!r} differs from {old.entry.id!r} by case alone", hint="choose another id"
            )
        if old.entry.id == id and old.entry.role != role:
            raise Refused(
                f"{id!r} has the role {old.entry.role}, and cannot change to {role}",
                hint="choose another id",
            )
    mine = [old for old in issued if old.entry.id == id]
    if mine and not renew:
        end = mine[-1].entry.end
        until = f", valid until {when(end)}" if end is not None else ""
        raise Refused(f"{id!r} has had a certificate{until}", hint="--renew issues another")


def revoke_certificates(authority: TlsAuthority, id: str, *, at: datetime) -> list[Entry]:
    """Revoke all certificates of an id, and write the revocation list anew.

    Returns:
        Those that were not revoked before; expired ones are among them.

    Raises:
        UnknownName: The id has had none.
        CertificateError: A file cannot be written.
    """
    with files.locked(authority.register):
        entries = register.read(authority.register)
        mine = [old for old in register.held(entries) if old.entry.id == id]
        if not mine:
            known = {e.id for e in entries}
            raise UnknownName(f"no certificate of {id!r}", hint=did_you_mean(id, known))
        fresh = revocations(mine, at=at)
        for entry in fresh:
            register.append(authority.register, entry)
        gone = {e.serial: e.at for e in [*entries, *fresh] if e.event == Event.REVOKED}
        listed = certificates.revocation_list(
            gone, authority=authority.certificate, key=authority.key, at=at
        )
        files.write(authority.folder / REVOKED, listed)
    return fresh


def revocations(mine: Sequence[Held], *, at: datetime) -> list[Entry]:
    """Return the lines that revoke what is not revoked yet."""
    return [
        Entry(
            event=Event.REVOKED,
            at=utc(at),
            id=old.entry.id,
            role=old.entry.role,
            key=old.entry.key,
            serial=old.entry.serial,
            fingerprint=old.entry.fingerprint,
        )
        for old in mine
        if old.revoked is None
    ]
