"""Lists of JSON objects that grow with a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, overload


class Rows(Sequence[dict[str, Any]]):
    """JSON objects, kept as text: a third of the memory, where there are thousands.

    What is read is a copy; a float comes back as it was.

    >>> rows = Rows()
    >>> rows.append({"round": 1, "norm": 0.1})
    >>> rows[-1]["norm"], len(rows)
    (0.1, 1)
    """

    def __init__(self) -> None:
        self._texts: list[bytes] = []

    def append(self, row: dict[str, Any]) -> None:
        """Add an object."""
        self._texts.append(_encoded(row))

    def replace_last(self, row: dict[str, Any]) -> None:
        """Put an object in the place of the newest one."""
        self._texts[-1] = _encoded(row)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[dict[str, Any], ...]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | tuple[dict[str, Any], ...]:
        if isinstance(index, slice):
            return tuple(map(_decoded, self._texts[index]))
        return _decoded(self._texts[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_decoded, self._texts)


def _encoded(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()


def _decoded(text: bytes) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(text)
    return row
