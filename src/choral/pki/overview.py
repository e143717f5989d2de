"""What the authorities in a folder are and have issued, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from choral.core.errors import CertificateError
from choral.pki import certificates, enrolment, files, keys, register, tls
from choral.pki.check import SOON_DAYS
from choral.pki.names import utc, when
from choral.pki.register import Held


class Status(StrEnum):
    """How something issued stands now."""

    VALID = "valid"
    SOON = "expires soon"
    EXPIRED = "expired"
    EARLY = "not yet valid"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Row:
    """One authority, certificate or enrolment.

    Attributes:
        kind: `TLS authority`, `enrolment authority`, `certificate` or `enrolment`.
        id: Of whom; for a TLS authority the federation, for an enrolment authority empty.
        role: Its role; empty for an authority.
        status: How it stands.
        end: When it expires; None where it does not.
        days_left: Whole days until then, negative afterwards; None where it does not expire.
        serial: Serial number in hexadecimal digits; empty where there is none.
        fingerprint: SHA-256 of a certificate, else the public key; in hexadecimal digits.
    """

    kind: str
    id: str
    role: str
    status: Status
    end: datetime | None
    days_left: int | None
    serial: str
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        end = None if self.end is None else when(self.end)
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "status": str(self.status), "end": end}


def overview(folder: Path, *, at: datetime) -> list[Row]:
    """Return the authorities in a folder, then what each has issued, in the order of issue.

    Private keys are not read.

    Raises:
        CertificateError: There is no authority, or one of its files cannot be used.
    """
    rows = []
    if (folder / tls.FOLDER).is_dir():
        rows += _tls(folder / tls.FOLDER, at=at)
    if (folder / enrolment.FOLDER).is_dir():
        rows += _enrolment(folder / enrolment.FOLDER, at=at)
    if not rows:
        raise CertificateError(
            f"{folder} holds no authority", hint=f"`choral pki init {folder}` makes them"
        )
    return rows


def _tls(inside: Path, *, at: datetime) -> list[Row]:
    where = inside / tls.AUTHORITY
    authority = certificates.load_authority(files.read(where), where=str(where))
    start, end = authority.not_valid_before_utc, authority.not_valid_after_utc
    first = Row(
        kind="TLS authority",
        id=certificates.federation_of(authority),
        role="",
        status=Status.EARLY if utc(at) < start else _status(end, at=at),
        end=end,
        days_left=_days(end, at=at),
        serial=f"{authority.serial_number:x}",
        fingerprint=certificates.fingerprint(authority),
    )
    issued = register.held(register.read(inside / tls.REGISTER))
    return [first, *(_row("certificate", one, at=at) for one in issued)]


def _enrolment(inside: Path, *, at: datetime) -> list[Row]:
    first = Row(
        kind="enrolment authority",
        id="",
        role="",
        status=Status.VALID,
        end=None,
        days_left=None,
        serial="",
        fingerprint=keys.load_verify_key(inside / tls.AUTHORITY).hex(),
    )
    issued = register.held(register.read(inside / tls.REGISTER))
    return [first, *(_row("enrolment", one, at=at) for one in issued)]


def _row(kind: str, one: Held, *, at: datetime) -> Row:
    entry = one.entry
    return Row(
        kind=kind,
        id=entry.id,
        role=entry.role,
        status=Status.REVOKED if one.revoked is not None else _status(entry.end, at=at),
        end=entry.end,
        days_left=_days(entry.end, at=at),
        serial=f"{entry.serial:x}" if entry.serial else "",
        fingerprint=entry.fingerprint or entry.key,
    )


def _status(end: datetime | None, *, at: datetime) -> Status:
    if end is None:
        return Status.VALID
    if utc(at) > end:
        return Status.EXPIRED
    return Status.SOON if (end - utc(at)).days < SOON_DAYS else Status.VALID


def _days(end: datetime | None, *, at: datetime) -> int | None:
    return None if end is None else (end - utc(at)).days
