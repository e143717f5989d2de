"""Client ids: what they may look like, and a million of them that cost no memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, overload

from choral.core.errors import ConfigError
from choral.core.params import ClientId

_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def client_id(value: object) -> ClientId:
    """Return `value` as a client id.

    Args:
        value: 1 to 128 of the characters A-Z a-z 0-9 . _ - and no point in front; or an integer
            from 0, for its decimal digits.

    Raises:
        ConfigError: It is anything else. Ids become file names and parts of certificates.

    >>> client_id("hospital-a"), client_id(7)
    ('hospital-a', '7')
    """
    text = str(value) if type(value) is int and value >= 0 else value
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ConfigError(
            f"client id {value!r}",
            hint="expected 1 to 128 letters, digits, `.`, `_` or `-`, and no `.` in front",
        )
    return ClientId(text)


def id_for(text: str) -> ClientId:
    """Return the nearest client id to a text, such as a value of a column.

    >>> id_for("St. Mary's")
    'St.-Mary-s'
    """
    return client_id(re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:128])


class NumberedIds(Sequence[ClientId]):
    """The ids "0" to "count - 1", padded with zeros to one width, made when they are asked for.

    >>> ids = NumberedIds(1_000_000)
    >>> ids[42], len(ids), "000042" in ids, ids.index("000042")
    ('000042', 1000000, True, 42)
    """

    __slots__ = ("_range", "_width")

    def __init__(self, count: int, *, within: range | None = None) -> None:
        self._range = range(count) if within is None else within
        self._width = len(str(max(count - 1, 0)))

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, at: int) -> ClientId: ...
    @overload
    def __getitem__(self, at: slice) -> NumberedIds: ...
    def __getitem__(self, at: int | slice) -> ClientId | NumberedIds:
        if isinstance(at, slice):
            return NumberedIds(10**self._width, within=self._range[at])
        return ClientId(str(self._range[at]).zfill(self._width))

    def __contains__(self, value: object) -> bool:
        return self._number(value) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberedIds):
            return NotImplemented
        return self._range == other._range and self._width == other._width

    def __hash__(self) -> int:
        return hash((self._range, self._width))

    def __repr__(self) -> str:
        ends = f"{self[0]!r} … {self[-1]!r}" if self else "none"
        return f"NumberedIds({ends})"

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """Return the position of an id; raise `ValueError` where it is not one of these."""
        number = self._number(value)
        at = -1 if number is None else self._range.index(number)
        if number is None or at not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not one of {self!r}")
        return at

    def count(self, value: object) -> int:
        """Return 1 for an id of this sequence, else 0."""
        return int(value in self)

    def _number(self, value: object) -> int | None:
        """Return the number of an id, or None where it is not one of these."""
        if not isinstance(value, str) or len(value) != self._width or not value.isdecimal():
            return None
        number = int(value)
        return number if value.isascii() and number in self._range else None
