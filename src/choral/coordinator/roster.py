"""The list of clients that an operator keeps: `CLIENTS_CONFIG`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from choral.core.errors import ConfigError
from choral.core.selection import Strata
from choral.data.ids import client_id


def read_roster(path: Path) -> dict[str, Strata]:
    """Return clients and their labels from a JSON list of `{"id": …, "endpoint": …}`.

    `endpoint` is kept as a label: clients call, and are never called.

    Raises:
        ConfigError: It cannot be read, or is no such list.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the list of clients {path}: {reason}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(body, list) or not body:
        raise ConfigError(f"{path}: expected a list", hint='such as [{"id": "hospital-a"}]')
    found: dict[str, Strata] = {}
    for entry in body:
        name, labels = _entry(path, entry)
        if name in found:
            raise ConfigError(f"{path}: client `{name}` stands there twice")
        found[name] = labels
    return found


def _entry(path: Path, entry: Any) -> tuple[str, Strata]:
    if not isinstance(entry, Mapping) or "id" not in entry:
        raise ConfigError(f"{path}: {entry!r} has no `id`", hint='such as {"id": "hospital-a"}')
    labels = {str(key): str(value) for key, value in entry.items() if key != "id"}
    return str(client_id(entry["id"])), labels


class LiveRoster(Mapping[str, Strata]):
    """The operator's list, as its file is now. Any thread may read it.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read now. Later the last good one holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._found = read_roster(path)

    def refresh(self) -> bool:
        """Read the file again where it was written to; return whether the list is another one.

        Raises:
            ConfigError: It cannot be read, or is no list; nothing was changed.
        """
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        found = read_roster(self._path)
        self._stamp = stamp
        changed, self._found = found != self._found, found
        return changed

    def __getitem__(self, client: str) -> Strata:
        """Return a client's labels."""
        return self._found[client]

    def __iter__(self) -> Iterator[str]:
        """Yield the clients."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return how many clients there are."""
        return len(self._found)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what differs where a file was written to or replaced; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)
