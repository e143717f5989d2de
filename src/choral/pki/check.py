"""What is wrong with a party's files, or soon will be, for `choral doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

from choral.core.errors import ConfigError
from choral.pki import credentials, keys
from choral.pki.credentials import ClientFiles, ServerFiles
from choral.pki.federation import Federation, load_federation
from choral.pki.identity import Identity
from choral.pki.names import Role, utc, when

SOON_DAYS: Final = 30

_T = TypeVar("_T")


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or soon will be.

    Attributes:
        level: `error` stops the party from working; `warning` does not yet.
        message: What was found.
        hint: What to do.
    """

    level: Level
    message: str
    hint: str


def check(
    where: ServerFiles | ClientFiles,
    *,
    at: datetime,
    role: Role = Role.CLIENT,
    enrolled: bool = True,
    soon_days: int = SOON_DAYS,
) -> list[Finding]:
    """Return all that is wrong with a party's files; an empty list where they can be used.

    Where nothing is an error, `load_server` or `load_client` with the same arguments succeeds.

    Args:
        where: The files.
        at: Now.
        role: Role of the certificate, of `ClientFiles`.
        enrolled: Whether a client needs its enrolment.
        soon_days: Days before an expiry from which a warning is given.
    """
    found: list[Finding] = []
    federation = _try(found, lambda: load_federation(where.federation, at=at))
    if federation is None:
        _try(found, lambda: keys.load_tls_key(where.key))
        _try(found, lambda: keys.load_signing_key(where.signing_key))
        return found
    wanted = Role.COORDINATOR if isinstance(where, ServerFiles) else role
    who = _check_tls(found, where, federation=federation, role=wanted, at=at)
    if isinstance(where, ServerFiles):
        _check_server(found, where, federation, who)
    elif role == Role.CLIENT and enrolled:
        _check_client(found, where, federation, who)
    authority = federation.tls_authority.not_valid_after_utc
    found += _soon("the TLS authority", authority, at=at, days=soon_days)
    if who is not None:
        found += _soon(str(where.certificate), who.end, at=at, days=soon_days)
    return found


def _check_tls(
    found: list[Finding],
    where: ServerFiles | ClientFiles,
    *,
    federation: Federation,
    role: Role,
    at: datetime,
) -> Identity | None:
    """Return whom the certificate speaks of, or None where it is not good."""
    load = credentials.load_certificate
    pair = _try(found, lambda: load(where, federation=federation, role=role, at=at))
    if pair is None:
        _try(found, lambda: keys.load_tls_key(where.key))
        return None
    _try(found, lambda: credentials.load_key(where, pair[0]))
    return pair[1]


def _check_server(
    found: list[Finding], where: ServerFiles, federation: Federation, who: Identity | None
) -> None:
    _try(found, lambda: credentials.load_server_key(where, federation))
    revoked = _try(found, lambda: credentials.load_revoked(where.revoked, federation=federation))
    if who is not None and revoked is not None:
        _try(found, lambda: credentials.check_not_revoked(who, revoked=revoked, where=where))


def _check_client(
    found: list[Finding], where: ClientFiles, federation: Federation, who: Identity | None
) -> None:
    pair = _try(found, lambda: credentials.load_client_key(where, federation))
    if who is not None and pair is not None:
        _try(found, lambda: credentials.check_same_id(who, pair[1], where=where))


def _try(found: list[Finding], load: Callable[[], _T]) -> _T | None:
    """Return what `load` gives, or note why it gives nothing."""
    try:
        return load()
    except ConfigError as error:
        found.append(Finding(Level.ERROR, error.message, error.hint))
        return None


def _soon(what: str, end: datetime, *, at: datetime, days: int) -> list[Finding]:
    """Return a warning where an end is near."""
    left = (end - utc(at)).days
    if left >= days:
        return []
    message = f"{what} expires in {left} days, at {when(end)}"
    return [Finding(Level.WARNING, message, "renew it before that")] if left >= 0 else []
