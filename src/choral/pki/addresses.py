"""Where plain text is allowed: on a loopback address, or where somebody asks for it by name."""

from __future__ import annotations

import ipaddress
import os
from typing import Final

from choral.core.errors import ConfigError, Refused

ALLOW: Final = "CHORAL_ALLOW_INSECURE"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ConfigError: It is no such address.

    >>> split_address("127.0.0.1:50051"), split_address("[::1]:0")
    (('127.0.0.1', 50051), ('::1', 0))
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"address {address!r}: expected HOST:PORT", hint="127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and nothing else.

    >>> is_loopback("localhost"), is_loopback("127.0.0.9"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_insecure(address: str) -> None:
    """Refuse plain text where others could listen.

    Raises:
        Refused: The address is no loopback address, and nobody asked for it by name.
        ConfigError: It is no address.
    """
    host, _ = split_address(address)
    if not is_loopback(host) and os.environ.get(ALLOW) != "1":
        raise Refused(
            f"plain text on {address}, which is not a loopback address",
            hint=f"use certificates (`choral pki`), or set {ALLOW}=1 if you are sure",
        )
