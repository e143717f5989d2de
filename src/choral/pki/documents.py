"""The JSON files of this room: what they are, their version, and exactly their fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from choral.core.errors import CertificateError

VERSION: Final = 1


def write_document(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return a document's bytes."""
    body = {"choral": kind, "version": VERSION, **fields}
    return (json.dumps(body, indent=2) + "\n").encode()


def read_document(
    data: bytes, *, kind: str, fields: Mapping[str, type], where: str
) -> dict[str, Any]:
    """Return the fields of a document.

    Args:
        data: The file's bytes.
        kind: What it must be.
        fields: Name to type; each must be there, and no other.
        where: The file's name, for messages.

    Raises:
        CertificateError: It is no such document.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise CertificateError(f"{where} is not JSON", hint=f"expected a {kind}") from None
    if not isinstance(body, dict) or body.get("choral") != kind:
        found = body.get("choral") if isinstance(body, dict) else None
        raise CertificateError(f"{where} is no {kind}", hint=f"it says {found!r}" if found else "")
    if body.get("version") != VERSION:
        raise CertificateError(
            f"{where} is a {kind} of version {body.get('version')!r}, expected {VERSION}",
            hint="use the same version of Choral on both sides",
        )
    given = body.keys() - {"choral", "version"}
    if given != fields.keys():
        odd = sorted(given ^ fields.keys())
        raise CertificateError(f"{where}: missing or unknown fields: {', '.join(odd)}")
    for name, expected in fields.items():
        if type(body[name]) is not expected:
            raise CertificateError(f"{where}: `{name}` has the wrong type")
    return {name: body[name] for name in fields}


def from_hex(text: str, *, size: int, name: str, where: str) -> bytes:
    """Return bytes that are written as lower-case hexadecimal digits.

    Args:
        text: The digits.
        size: Bytes expected; 0 for any number.
        name: The field, for messages.
        where: The file, for messages.

    Raises:
        CertificateError: They are not, or too many or few.
    """
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if found.hex() != text or not found or (size and len(found) != size):
        size_words = f"{size} bytes" if size else "bytes"
        raise CertificateError(f"{where}: `{name}` is not {size_words} in hexadecimal digits")
    return found
