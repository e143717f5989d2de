"""A database's tables: made where there are none, migrated where they are older."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from choral.core.errors import StoreError
from choral.stores.tables import FORMAT, FORMATS, METADATA, VERSION_TABLE

_VERSION = sa.Table(
    VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), primary_key=True),
)
_PREPARING = 0x63686F72616C  # the key of PostgreSQL's advisory lock: "choral" in ASCII
_ALEMBIC = threading.Lock()  # its environment is global to the process


def prepare(db: sa.Connection, *, name: str) -> None:
    """Bring the tables to this version's format, in the transaction of `db`.

    Args:
        db: A connection in a transaction that others wait for.
        name: What to call the database in errors.

    Raises:
        StoreError: A newer version of Choral wrote the database.
    """
    if db.dialect.name == "postgresql":
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARING)))
    tables = set(sa.inspect(db).get_table_names())
    found = _format(db, tables)
    if found is None:
        _make(db)
    elif not 1 <= found <= FORMAT:
        raise StoreError(
            f"{name} has format {found}, this version reads {FORMAT}",
            hint="use the version of Choral that wrote it",
        )
    elif found < FORMAT:
        _migrate(db, adopt=VERSION_TABLE not in tables)


def format_of(db: sa.Connection) -> int | None:
    """Return the format of a database's tables, None where there are none; nothing is changed."""
    return _format(db, set(sa.inspect(db).get_table_names()))


def _format(db: sa.Connection, tables: set[str]) -> int | None:
    """Return the format of the tables, None where there are none of ours."""
    if VERSION_TABLE in tables:
        return int(db.execute(sa.select(_VERSION.c.version_num)).scalar_one())
    if FORMATS.name in tables:
        return int(db.execute(sa.select(FORMATS.c.version)).scalar_one())
    return None


def _make(db: sa.Connection) -> None:
    """Make the newest tables at once; a table of that name that is not ours is an error."""
    METADATA.create_all(db, checkfirst=False)
    _VERSION.create(db, checkfirst=False)
    db.execute(FORMATS.insert().values(version=FORMAT))
    db.execute(_VERSION.insert().values(version_num=str(FORMAT)))


def _migrate(db: sa.Connection, *, adopt: bool) -> None:
    """Run the steps that are missing; a database of format 1 does not say so to Alembic yet."""
    from alembic import command  # takes a quarter of a second, and is rarely needed
    from alembic.config import Config

    with _ALEMBIC:
        config = Config()
        config.set_main_option("script_location", "choral.stores:migrations")
        config.attributes["connection"] = db
        if adopt:
            command.stamp(config, "1")
        command.upgrade(config, "head")
