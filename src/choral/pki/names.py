"""Who a certificate speaks of: a federation, a role and an id, in one URI."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from cryptography import x509

from choral.core.errors import ConfigError, Refused

FEDERATION: Final = "federation"
"""Name of a federation that was not given one."""

COORDINATOR: Final = "coordinator"
"""Id of the coordinator; nobody else may have it."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST_SIZE: Final = 253
_RULE: Final = "expected 1 to 128 letters, digits, `.`, `_` or `-`, and no `.` in front"


class Role(StrEnum):
    """What the holder of a certificate may do."""

    CLIENT = "client"
    OPERATOR = "operator"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    COORDINATOR = "coordinator"


REQUESTED: Final = (Role.CLIENT, Role.OPERATOR, Role.RESEARCHER, Role.AUDITOR)
"""Roles that a request may ask for."""


def party_id(value: str) -> str:
    """Return an id that is safe in file names and URIs: the rule of `choral.data.client_id`.

    Raises:
        ConfigError: It is no such id, or the coordinator's.

    >>> party_id("hospital-a")
    'hospital-a'
    """
    if not is_name(value):
        raise ConfigError(f"id {value!r}", hint=_RULE)
    if value.casefold() == COORDINATOR:
        raise ConfigError(f"id {value!r} is the coordinator's", hint="choose another id")
    return value


def federation_name(value: str) -> str:
    """Return the name of a federation; the rule is that of ids.

    Raises:
        ConfigError: It is no such name.
    """
    if not is_name(value):
        raise ConfigError(f"federation name {value!r}", hint=_RULE)
    return value


def is_name(value: str) -> bool:
    """Return whether a text may be an id or the name of a federation."""
    return _NAME.fullmatch(value) is not None


def authority_uri(federation: str) -> str:
    """Return the URI that stands in the certificate of a federation's TLS authority."""
    return f"choral://{federation}/authority"


def uri_of(*, federation: str, role: Role, id: str) -> str:
    """Return the URI that stands in a certificate.

    >>> uri_of(federation="heart", role=Role.CLIENT, id="hospital-a")
    'choral://heart/client/hospital-a'
    """
    return f"choral://{federation}/{role}/{id}"


def parse_uri(uri: str) -> tuple[str, Role, str]:
    """Return federation, role and id of a URI; only what `uri_of` writes is read.

    Raises:
        Refused: It is anything else.
    """
    parts = uri.removeprefix("choral://").split("/")
    if not uri.startswith("choral://") or len(parts) != 3:
        raise Refused(f"{uri!r} names no party", hint="expected choral://FEDERATION/ROLE/ID")
    federation, role, name = parts
    known = role in tuple(Role)
    own = (name == COORDINATOR) == (role == Role.COORDINATOR)
    if not known or not own or not is_name(federation) or not is_name(name):
        raise Refused(f"{uri!r} names no party", hint="expected choral://FEDERATION/ROLE/ID")
    return federation, Role(role), name


def hosts(values: Iterable[str]) -> list[x509.GeneralName]:
    """Return the alternative names for hosts, each once, in the order given.

    Args:
        values: DNS names, IPv4 and IPv6 addresses; without a port, without a wildcard.

    Raises:
        ConfigError: There is none, or one is neither.
    """
    found = list(dict.fromkeys(_host(value) for value in values))
    if not found:
        raise ConfigError("no host name", hint="such as `--name fl.example.org`")
    return found


def _host(value: str) -> x509.GeneralName:
    try:
        if "%" not in value:
            return x509.IPAddress(ipaddress.ip_address(value))
    except ValueError:
        pass
    name = value.lower()
    labels = name.split(".")
    whole = len(name) <= _HOST_SIZE and all(_LABEL.fullmatch(label) for label in labels)
    if not whole or labels[-1].isdigit():
        raise ConfigError(
            f"host {value!r} is neither a DNS name nor an IP address",
            hint="without a port and without `*`; international names in their `xn--` form",
        )
    return x509.DNSName(name)


def utc(at: datetime) -> datetime:
    """Return a time in UTC and in whole seconds, as certificates hold it.

    Raises:
        ConfigError: It has no time zone.
    """
    if at.tzinfo is None:
        raise ConfigError(f"time {at.isoformat()} has no time zone", hint="such as UTC")
    return at.astimezone(UTC).replace(microsecond=0)


def when(at: datetime) -> str:
    """Return a time as files and people read it.

    >>> when(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05Z'
    """
    return utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")
