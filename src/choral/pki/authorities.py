"""Both authorities of one folder, where one machine holds both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from choral.core.checks import one_of
from choral.core.errors import UnknownName
from choral.pki import enrolment, files, tls
from choral.pki.enrolment import EnrolmentAuthority, init_enrolment, revoke_enrolment
from choral.pki.register import Entry
from choral.pki.tls import AUTHORITY_DAYS, TlsAuthority, init_tls, revoke_certificates

BOTH: Final = (tls.FOLDER, enrolment.FOLDER)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a revocation changed; both are empty where all was revoked before.

    Attributes:
        certificates: Lines of the TLS authority's register.
        enrolments: Lines of the enrolment authority's register.
    """

    certificates: list[Entry]
    enrolments: list[Entry]


def init(
    folder: Path,
    *,
    federation: str,
    at: datetime,
    days: int = AUTHORITY_DAYS,
    only: str | None = None,
) -> tuple[TlsAuthority | None, EnrolmentAuthority | None]:
    """Make the authorities of a federation.

    Args:
        folder: `folder/tls` and `folder/enrolment` are made in it.
        federation: Its name.
        at: Now.
        days: How long the TLS authority is valid. An enrolment authority does not expire.
        only: `tls` or `enrolment` to make one alone; None for both.

    Raises:
        ConfigError: A bad name, number of days, or word.
        CertificateError: One is there already, and nothing was changed; or a file cannot be
            written.
    """
    wanted = BOTH if only is None else (one_of("--only", only, BOTH),)
    files.absent(*(folder / name for name in wanted))
    first = second = None
    if tls.FOLDER in wanted:
        first = init_tls(folder, federation=federation, at=at, days=days)
    if enrolment.FOLDER in wanted:
        second = init_enrolment(folder)
    return first, second


def revoke(folder: Path, id: str, *, at: datetime) -> Revocation:
    """Revoke all certificates and enrolments of an id, with each authority that is in a folder.

    Raises:
        UnknownName: None has issued anything to this id.
        CertificateError: No authority is there, or a file cannot be used.
    """
    certificates: list[Entry] = []
    enrolments: list[Entry] = []
    unknown: list[UnknownName] = []
    places = [name for name in BOTH if (folder / name).is_dir()] or [tls.FOLDER]
    if tls.FOLDER in places:
        authority = tls.open_tls(folder)
        try:
            certificates = revoke_certificates(authority, id, at=at)
        except UnknownName as error:
            unknown.append(error)
    if enrolment.FOLDER in places:
        enroller = enrolment.open_enrolment(folder)
        try:
            enrolments = revoke_enrolment(enroller, id, at=at)
        except UnknownName as error:
            unknown.append(error)
    if len(unknown) == len(places):
        raise unknown[0]
    return Revocation(certificates, enrolments)
