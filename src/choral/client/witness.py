"""What a client remembers of its coordinator's audit trail: heads that it was shown, and signed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from choral.core.errors import ChoralError, RolledBackAudit, StoreError
from choral.federation.audit import Head
from choral.wire.receipts import Receipt

NAME: Final = "audit.jsonl"
KEPT: Final = 10_000
"""Receipts that are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A head, and the receipt in which the coordinator signed it.

    Attributes:
        head: The head.
        receipt: The receipt.
    """

    head: Head
    receipt: Receipt


class Witness:
    """The heads that a client has seen, in a file of its state folder.

    Args:
        path: The file; it need not exist.

    Raises:
        StoreError: It cannot be read: a client that cannot remember must not go on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._last = Head()
        raw = path.read_bytes() if path.exists() else b""
        self._whole = raw.rfind(b"\n") + 1
        for one in read_witness(path) if path.exists() else ():
            self._lines += 1
            self._last = max(self._last, one.head, key=lambda head: head.length)

    @property
    def last(self) -> Head:
        """The longest trail that was seen."""
        return self._last

    def check(self, raw: bytes) -> Head | None:
        """Return the head that a coordinator shows, None where it shows none.

        Raises:
            RolledBackAudit: It does not extend what this client has seen.
        """
        last = self._last
        if not raw and not last.length:
            return None
        try:
            head = Head.decode(raw)
        except ChoralError as error:
            raise self._refusal(f"it shows {error.message}") from None
        if head.length < last.length:
            raise self._refusal(f"its audit trail has {head.length} entries")
        if head.length == last.length and head.digest != last.digest:
            raise self._refusal(f"another trail of {head.length} entries")
        return head

    def _refusal(self, what: str) -> RolledBackAudit:
        return RolledBackAudit(
            f"{what}, and this client has seen {self._last.length}: the coordinator was set back "
            "to an older state, or its trail was changed",
            hint=f"ask its operator; who accepts that removes {self._path}",
        )

    def remember(self, receipt: Receipt) -> None:
        """Keep the head of a receipt whose signature was checked.

        Raises:
            RolledBackAudit: It does not extend what this client has seen; nothing is kept.
            StoreError: It cannot be written.
        """
        head = self.check(receipt.audit_head)
        if head is None or head == self._last:
            return
        line = json.dumps(_to_json(receipt)) + "\n"
        try:
            if self._lines >= 2 * KEPT:
                self._forget_some()
            with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                file.truncate(self._whole)  # what a crash left of a line goes
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from None
        self._lines, self._last = self._lines + 1, head
        self._whole += len(line.encode())

    def _forget_some(self) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)[-KEPT:]
        aside = self._path.with_suffix(".new")
        with open(aside, "w", encoding="utf-8", opener=_private) as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        self._lines, self._whole = len(lines), sum(len(line.encode()) for line in lines)


def read_witness(path: Path) -> Iterator[Witnessed]:
    """Yield what a witness has seen, oldest first. A last line that a crash cut is left out.

    Raises:
        StoreError: The file cannot be read, or holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        try:
            receipt = _from_json(json.loads(line))
            yield Witnessed(Head.decode(receipt.audit_head), receipt)
        except (ValueError, TypeError, KeyError, ChoralError):
            raise StoreError(f"{path}, line {number} is no receipt") from None


def _to_json(receipt: Receipt) -> dict[str, Any]:
    raw = ((name, getattr(receipt, name)) for name in ("audit_head", "signature"))
    plain = {name: getattr(receipt, name) for name in _PLAIN}
    return plain | {name: base64.b64encode(value).decode() for name, value in raw}


def _from_json(body: dict[str, Any]) -> Receipt:
    head, signature = (base64.b64decode(body[name]) for name in ("audit_head", "signature"))
    plain = {name: body[name] for name in _PLAIN}
    return Receipt(**plain, audit_head=head, signature=signature)


_PLAIN: Final = ("run_id", "round", "attempt", "client", "sha256", "size_bytes")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
