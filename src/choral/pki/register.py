"""What an authority has issued and revoked: JSON lines, appended and never changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from choral.core.errors import CertificateError, ConfigError
from choral.pki import files
from choral.pki.names import utc, when


class Event(StrEnum):
    """What a line of a register records."""

    ISSUED = "issued"
    ENROLLED = "enrolled"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a register.

    Attributes:
        event: What happened.
        at: When.
        id: To whom.
        role: Its role.
        key: Which key: the SHA-256 of a TLS key, or a verification key, in hexadecimal digits.
        serial: Serial number of the certificate; 0 for an enrolment.
        fingerprint: SHA-256 of the certificate; empty for an enrolment.
        end: When the certificate expires; None for an enrolment, which does not.
    """

    event: Event
    at: datetime
    id: str
    role: str
    key: str
    serial: int = 0
    fingerprint: str = ""
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate or an enrolment, and whether it was revoked since.

    Attributes:
        entry: The line that records its issue.
        revoked: When it was revoked; None where it was not.
    """

    entry: Entry
    revoked: datetime | None


def read(path: Path) -> list[Entry]:
    """Return the lines of a register; a line that a crash tore was never acknowledged.

    Raises:
        CertificateError: It is missing, unreadable, or a line makes no sense.
    """
    found = []
    for number, line in enumerate(files.read_lines(path), start=1):
        try:
            found.append(_parse(line))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ConfigError):
            raise CertificateError(
                f"{path}, line {number}: not a line of a register",
                hint="restore the authority's folder from a copy",
            ) from None
    return found


def append(path: Path, entry: Entry) -> None:
    """Append a line; on return it is durable.

    Raises:
        CertificateError: It cannot be written.
    """
    body = {
        "event": entry.event,
        "at": when(entry.at),
        "id": entry.id,
        "role": entry.role,
        "key": entry.key,
    }
    if entry.serial:
        body |= {"serial": f"{entry.serial:x}", "fingerprint": entry.fingerprint}
    if entry.end is not None:
        body |= {"end": when(entry.end)}
    files.append_line(path, json.dumps(body).encode())


def held(entries: Sequence[Entry]) -> list[Held]:
    """Return everything that was issued, in the order of its issue."""
    revoked: dict[tuple[str, int, str], datetime] = {}
    issued = []
    for entry in entries:
        if entry.event == Event.REVOKED:
            revoked.setdefault(_name(entry), entry.at)
        else:
            issued.append(entry)
    return [Held(entry, revoked.get(_name(entry))) for entry in issued]


def _name(entry: Entry) -> tuple[str, int, str]:
    """Return what tells one certificate or enrolment from another."""
    return (entry.id, entry.serial, entry.key)


def _parse(line: bytes) -> Entry:
    body = json.loads(line)
    end = body.get("end")
    return Entry(
        event=Event(body["event"]),
        at=utc(datetime.fromisoformat(body["at"])),
        id=str(body["id"]),
        role=str(body["role"]),
        key=str(body["key"]),
        serial=int(body.get("serial", "0"), 16),
        fingerprint=str(body.get("fingerprint", "")),
        end=None if end is None else utc(datetime.fromisoformat(end)),
    )
