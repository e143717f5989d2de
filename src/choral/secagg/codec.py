"""One byte string per message, and back: records of framed fields, read strictly.

Every field stands after its length (`crypto.encoding`), so a reader knows where it ends; what is
there many times and always has the same size stands in one block without lengths. A field type has
one spelling per value. Whatever else arrives raises `Breach` with `Reason.MALFORMED`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, starmap
from operator import attrgetter
from typing import Any, Final, Protocol

from choral.crypto.encoding import LENGTH_SIZE, framed
from choral.secagg.refusals import Breach, Reason

MAX_TEXT: Final = 256
_DOUBLE: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<Q")


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
        return framed(map(self.item.write, value))

    def read(self, raw: bytes) -> tuple[Any, ...]:
        """Return the items."""
        return tuple(map(self.item.read, split(raw)))


class Block:
    """A tuple of values of one size, one after the other.

    Args:
        layout: Sizes of a value's byte strings, for `struct`.
        make: Makes a value from them.
        parts: Gives them back.
    """

    __slots__ = ("_layout", "_make", "_parts")

    def __init__(
        self,
        layout: str,
        *,
        make: Callable[..., Any],
        parts: Callable[[Any], Iterable[bytes]],
    ) -> None:
        self._layout = struct.Struct(layout)
        self._make = make
        self._parts = parts

    def write(self, value: Sequence[Any]) -> bytes:
        """Return the values without lengths."""
        raw = b"".join(chain.from_iterable(map(self._parts, value)))
        if len(raw) != len(value) * self._layout.size:
            raise malformed(f"a block of {len(raw)} bytes for {len(value)} values")
        return raw

    def read(self, raw: bytes) -> tuple[Any, ...]:
        """Return the values."""
        if len(raw) % self._layout.size:
            raise malformed(f"{len(raw)} bytes, expected a multiple of {self._layout.size}")
        return tuple(starmap(self._make, self._layout.iter_unpack(raw)))


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass under a label, or under none; `wires` has its fields' types in order."""

    label: str
    kind: type[Any]
    wires: tuple[Wire, ...]
    _label: tuple[bytes, ...] = field(init=False)
    _parts: Callable[[Any], tuple[Any, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_label", (self.label.encode(),) if self.label else ())
        names = [f.name for f in fields(self.kind)]
        one = attrgetter(*names)
        parts = one if len(names) > 1 else lambda value: (one(value),)
        object.__setattr__(self, "_parts", parts)

    def write(self, value: Any) -> bytes:
        """Return the label and the fields."""
        pairs = zip(self.wires, self._parts(value), strict=True)
        return framed((*self._label, *[wire.write(part) for wire, part in pairs]))

    def read(self, raw: bytes) -> Any:
        """Return the value."""
        return self.of(split(raw))

    def of(self, parts: Sequence[bytes]) -> Any:
        """Return the value of a frame that was split."""
        start = len(self._label)
        if len(parts) != len(self.wires) + start or tuple(parts[:start]) != self._label:
            raise malformed(f"bytes that are no {self.kind.__name__}")
        return self.kind(*[w.read(p) for w, p in zip(self.wires, parts[start:], strict=True)])


def split(raw: bytes) -> list[bytes]:
    """Return the fields of a frame.

    Raises:
        Breach: The lengths do not add up.
    """
    parts, at, size = [], 0, len(raw)
    while at < size:
        start = at + LENGTH_SIZE
        if start > size:
            raise malformed(f"{size - at} bytes after the last field")
        at = start + _LENGTH.unpack_from(raw, start - LENGTH_SIZE)[0]
        if at > size:
            raise malformed(f"a field that ends at {at} of {size} bytes")
        parts.append(raw[start:at])
    return parts


def alone(value: bytes) -> tuple[bytes]:
    """Return a byte string as all the parts of a value: for a block of byte strings."""
    return (value,)


NATURAL: Final = _Natural()
REAL: Final = _Real()
TEXT: Final = _Text()
FLAG: Final = _Flag()
DIGEST: Final = Raw((32,))
DIGESTS: Final = Block("32s", make=lambda value: value, parts=alone)
SIGNATURE: Final = Raw((0, 64))
"""Empty in the semi-honest suite, which has no signatures."""
