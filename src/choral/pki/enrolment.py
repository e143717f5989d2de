"""The enrolment authority: it signs which verification key belongs to which client.

Secure aggregation hides a client's update from the coordinator as long as clients know each
other's keys from somebody else. This authority is that somebody: its operator is not the
coordinator's.

```
DIR/enrolment/authority.pem     its verification key, public
DIR/enrolment/key.pem           its private key
DIR/enrolment/register.jsonl    whom it enrolled, and whom it revoked
DIR/enrolment/issued/ID.json    the enrolment of each client
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from choral.core.errors import CertificateError, Refused, UnknownName, did_you_mean
from choral.crypto.signatures import SIGNATURE_SIZE, VERIFY_KEY_SIZE, SigningKey
from choral.pki import files, keys, register
from choral.pki.documents import from_hex, read_document, write_document
from choral.pki.names import Role, party_id, utc, when
from choral.pki.register import Entry, Event, Held
from choral.pki.requests import Request
from choral.pki.tls import AUTHORITY, ISSUED, KEY, REGISTER, revocations
from choral.secagg.enrolment import Authority, check_enrolled

FOLDER: Final = "enrolment"
KIND: Final = "enrolment"


@dataclass(frozen=True, slots=True)
class EnrolmentAuthority:
    """An authority with its private key.

    Attributes:
        folder: `DIR/enrolment`.
        key: Its key pair.
    """

    folder: Path
    key: SigningKey

    @property
    def register(self) -> Path:
        """Whom it enrolled, and whom it revoked."""
        return self.folder / REGISTER


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The signature that binds a verification key to a client.

    Attributes:
        id: Of the client.
        verify_key: Its verification key, 32 bytes.
        authority: Verification key of the authority, 32 bytes.
        signature: The authority's, 64 bytes, as `choral.secagg.site.Site` wants it.
    """

    id: str
    verify_key: bytes
    authority: bytes
    signature: bytes


def init_enrolment(folder: Path) -> EnrolmentAuthority:
    """Make an enrolment authority in `folder/enrolment`; whole, or not at all.

    Raises:
        CertificateError: It is there already, or cannot be made.
    """
    private = keys.new_signing_key()
    key = keys.signing_key(private)
    with files.new_folder(folder / FOLDER) as inside:
        files.private_folder(inside / ISSUED)
        files.write(inside / KEY, keys.private_pem(private), private=True)
        files.write(inside / AUTHORITY, keys.verify_key_pem(key.public))
        files.write(inside / REGISTER, b"")
    return EnrolmentAuthority(folder / FOLDER, key)


def open_enrolment(folder: Path) -> EnrolmentAuthority:
    """Return the enrolment authority in `folder/enrolment`.

    Raises:
        CertificateError: There is none, or one of its files cannot be used.
    """
    inside = folder / FOLDER
    if not inside.is_dir():
        raise CertificateError(
            f"{folder} holds no enrolment authority", hint=f"`choral pki init {folder}` makes one"
        )
    key = keys.load_signing_key(inside / KEY)
    if key.public != keys.load_verify_key(inside / AUTHORITY):
        raise CertificateError(
            f"{inside / KEY} is not the key of {AUTHORITY}",
            hint="restore the authority's folder from a copy",
        )
    return EnrolmentAuthority(inside, key)


def enrol(
    authority: EnrolmentAuthority, request: Request, *, at: datetime, replace: bool = False
) -> Enrolment:
    """Enrol the client of a request, record it, and keep the enrolment as `issued/ID.json`.

    Enrolling the same key again gives the same enrolment, and no new line.

    Args:
        authority: Who signs.
        request: A checked one.
        at: Now.
        replace: Whether the client may have had another key before; that one is revoked.

    Raises:
        Refused: It asks for another role than client; its client is enrolled with another key;
            its key was revoked, or belongs to another client.
        CertificateError: A file cannot be read or written.
    """
    if request.role != Role.CLIENT:
        raise Refused(
            f"{request.id!r} asks for the role {request.role}; only clients are enrolled",
            hint="it takes no part in secure aggregation, and needs no enrolment",
        )
    key = request.verify_key.hex()
    with files.locked(authority.register):
        issued = register.held(register.read(authority.register))
        _check_key(issued, id=request.id, key=key)
        mine = [old for old in issued if old.entry.id == request.id]
        if not any(old.entry.key == key for old in mine):
            _check_replaced(mine, replace=replace)
            entry = Entry(
                event=Event.ENROLLED, at=utc(at), id=request.id, role=request.role, key=key
            )
            for line in (*revocations(mine, at=at), entry):
                register.append(authority.register, line)
        enrolment = Enrolment(
            id=request.id,
            verify_key=request.verify_key,
            authority=authority.key.public,
            signature=Authority(authority.key).enrol(request.id, request.verify_key),
        )
        target = authority.folder / ISSUED / f"{request.id}.json"
        files.write(target, write_enrolment(enrolment))
    return enrolment


def _check_key(issued: Sequence[Held], *, id: str, key: str) -> None:
    for old in issued:
        if old.entry.key == key and old.revoked is not None:
            raise Refused(
                f"the signing key of {old.entry.id!r} was revoked at {when(old.revoked)}",
                hint="new keys in a new folder are needed",
            )
        if old.entry.key == key and old.entry.id != id:
            raise Refused(
                f"that signing key belongs to {old.entry.id!r}",
                hint="every client needs keys of its own",
            )


def _check_replaced(mine: Sequence[Held], *, replace: bool) -> None:
    if mine and not replace:
        old = mine[-1].entry
        raise Refused(
            f"{old.id!r} was enrolled with another key at {when(old.at)}",
            hint="ask its owner; --replace revokes that key and enrols this one",
        )


def revoke_enrolment(authority: EnrolmentAuthority, id: str, *, at: datetime) -> list[Entry]:
    """Record that the keys of a client are enrolled no longer, and never again.

    The signatures that were given cannot be taken back, and clients read no list of revoked
    keys. What keeps a client out is the revocation of its certificate.

    Returns:
        The lines that were added; none where all was revoked before.

    Raises:
        UnknownName: The client was never enrolled.
        CertificateError: A file cannot be written.
    """
    with files.locked(authority.register):
        entries = register.read(authority.register)
        mine = [old for old in register.held(entries) if old.entry.id == id]
        if not mine:
            known = {e.id for e in entries}
            raise UnknownName(f"no enrolment of {id!r}", hint=did_you_mean(id, known))
        fresh = revocations(mine, at=at)
        for entry in fresh:
            register.append(authority.register, entry)
    return fresh


def write_enrolment(enrolment: Enrolment) -> bytes:
    """Return the bytes of an `enrolment.json`."""
    return write_document(
        KIND,
        {
            "id": enrolment.id,
            "verify_key": enrolment.verify_key.hex(),
            "authority": enrolment.authority.hex(),
            "signature": enrolment.signature.hex(),
        },
    )


def load_enrolment(path: Path, *, authority: bytes) -> Enrolment:
    """Return the enrolment in a file.

    Args:
        path: An `enrolment.json`.
        authority: Verification key of the federation's enrolment authority.

    Raises:
        CertificateError: Missing, unreadable, no enrolment, or not this authority's.
    """
    where = str(path)
    names = ("id", "verify_key", "authority", "signature")
    found = read_document(
        files.read(path), kind=KIND, fields=dict.fromkeys(names, str), where=where
    )
    sizes = {
        "verify_key": VERIFY_KEY_SIZE,
        "authority": VERIFY_KEY_SIZE,
        "signature": SIGNATURE_SIZE,
    }
    parts = {n: from_hex(found[n], size=s, name=n, where=where) for n, s in sizes.items()}
    if parts["authority"] != authority:
        raise CertificateError(
            f"{where} is of another enrolment authority than federation.json names",
            hint="ask the enrolment authority's operator, not the coordinator's, which is right",
        )
    enrolment = Enrolment(id=party_id(found["id"]), **parts)
    try:
        check_enrolled(
            authority,
            client=enrolment.id,
            verify_key=enrolment.verify_key,
            enrolment=enrolment.signature,
        )
    except Refused as error:
        raise CertificateError(
            f"{where}: the enrolment authority did not sign it: {error.message}",
            hint="ask for it again: `choral pki enroll` makes it",
        ) from None
    return enrolment
