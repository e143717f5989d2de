"""A database in one file: WAL, synchronous FULL, one transaction per `append`."""

from __future__ import annotations

from pathlib import Path

from choral.stores.database import Database
from choral.stores.engines import sqlite_backend


class SqliteRunStore(Database):
    """A `Database` in one file.

    Args:
        path: The database file; its folder must exist.

    Raises:
        StoreError: The file is no database, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(sqlite_backend(path))
