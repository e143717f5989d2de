"""One byte string per message, and back: records of framed fields, read strictly.

Every field stands after its length (`crypto.encoding`), so a reader knows where it ends. A field
type has one spelling per value. Whatever else arrives raises `Breach` with `Reason.MALFORMED`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Protocol

from choral.crypto.encoding import LENGTH_SIZE, frame
from choral.secagg.refusals import Breach, Reason

MAX_TEXT: Final = 256
_DOUBLE: Final = struct.Struct("<d")


class Wire(Protocol):
    """How a value of one type is written and read."""

    def write(self, value: Any) -> bytes:
        """Return the value's bytes."""
        ...

    def read(self, raw: bytes) -> Any:
        """Return the value; raise `Breach` for anything that `write` never gives."""
        ...


def malformed(message: str) -> Breach:
    """Return the error for bytes that are no message."""
    return Breach(Reason.MALFORMED, message)


class _Natural:
    """A whole number, 0 to 2^64 - 1, in 8 bytes."""

    def write(self, value: int) -> bytes:
        return value.to_bytes(8, "little")

    def read(self, raw: bytes) -> int:
        if len(raw) != 8:
            raise malformed(f"a number of {len(raw)} bytes, expected 8")
        return int.from_bytes(raw, "little")


class _Real:
    """A finite number; -0.0 is not written."""

    def write(self, value: float) -> bytes:
        return _DOUBLE.pack(value + 0.0)

    def read(self, raw: bytes) -> float:
        if len(raw) != 8:
            raise malformed(f"a number of {len(raw)} bytes, expected 8")
        value: float = _DOUBLE.unpack(raw)[0]
        if not math.isfinite(value) or self.write(value) != raw:
            raise malformed("a number that is not finite")
        return value


class _Text:
    """UTF-8, up to 256 bytes."""

    def write(self, value: str) -> bytes:
        raw = value.encode()
        if len(raw) > MAX_TEXT:
            raise malformed(f"a text of {len(raw)} bytes, expected up to {MAX_TEXT}")
        return raw

    def read(self, raw: bytes) -> str:
        if len(raw) > MAX_TEXT:
            raise malformed(f"a text of {len(raw)} bytes, expected up to {MAX_TEXT}")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise malformed("a text is not UTF-8") from None


class _Flag:
    """True or false in one byte."""

    def write(self, value: bool) -> bytes:
        return b"\1" if value else b"\0"

    def read(self, raw: bytes) -> bool:
        if raw not in {b"\0", b"\1"}:
            raise malformed("a flag that is neither 0 nor 1")
        return raw == b"\1"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of one of the given sizes."""

    sizes: tuple[int, ...]

    def write(self, value: bytes) -> bytes:
        """Return the bytes."""
        return value

    def read(self, raw: bytes) -> bytes:
        """Return the bytes if their number is right."""
        if len(raw) not in self.sizes:
            raise malformed(f"a field of {len(raw)} bytes, expected one of {list(self.sizes)}")
        return raw


@dataclass(frozen=True, slots=True)
class Word:
    """A member of an enumeration of strings."""

    kind: type[Any]

    def write(self, value: Any) -> bytes:
        """Return the member's value."""
        return str(value).encode()

    def read(self, raw: bytes) -> Any:
        """Return the member."""
        try:
            return self.kind(raw.decode())
        except ValueError:
            raise malformed(f"an unknown {self.kind.__name__.lower()}") from None


@dataclass(frozen=True, slots=True)
class Many:
    """A tuple of values of one type."""

    item: Wire

    def write(self, value: Sequence[Any]) -> bytes:
        """Return the items, each after its length."""
        parts = [self.item.write(v) for v in value]
        return b"".join(len(p).to_bytes(LENGTH_SIZE, "little") + p for p in parts)

    def read(self, raw: bytes) -> tuple[Any, ...]:
        """Return the items."""
        return tuple(self.item.read(part) for part in split(raw))


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass under a label; `wires` has its fields' types in order."""

    label: str
    kind: type[Any]
    wires: tuple[Wire, ...]
    _names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", tuple(f.name for f in fields(self.kind)))

    def write(self, value: Any) -> bytes:
        """Return the label and the fields."""
        pairs = zip(self._names, self.wires, strict=True)
        return frame(self.label, *[wire.write(getattr(value, name)) for name, wire in pairs])

    def read(self, raw: bytes) -> Any:
        """Return the value."""
        parts = split(raw)
        if not parts or parts[0] != self.label.encode() or len(parts) != len(self.wires) + 1:
            raise malformed(f"bytes that are no {self.kind.__name__}")
        return self.kind(*(w.read(p) for w, p in zip(self.wires, parts[1:], strict=True)))


def split(raw: bytes) -> list[bytes]:
    """Return the fields of a frame.

    Raises:
        Breach: The lengths do not add up.
    """
    parts, at = [], 0
    while at < len(raw):
        start = at + LENGTH_SIZE
        end = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or end > len(raw):
            raise malformed(f"a field that ends at {end} of {len(raw)} bytes")
        parts.append(raw[start:end])
        at = end
    return parts


NATURAL: Final = _Natural()
REAL: Final = _Real()
TEXT: Final = _Text()
FLAG: Final = _Flag()
DIGEST: Final = Raw((32,))
SIGNATURE: Final = Raw((0, 64))
"""Empty in the semi-honest suite, which has no signatures."""
