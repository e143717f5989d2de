"""The tables of a database, as the newest migration leaves them."""

from __future__ import annotations

import sqlalchemy as sa

FORMAT = 2
"""Version of the tables; `migrations/` leads from an older one to this."""

VERSION_TABLE = "choral_version"
"""Where a database says which migration it has; a name that other programs do not use."""

METADATA = sa.MetaData()

# Versions of Choral before format 2 read this table alone: it makes them refuse what is newer.
FORMATS = sa.Table("format", METADATA, sa.Column("version", sa.Integer, nullable=False))

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, unique=True, nullable=False),
    sa.Column("header", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("lease_until", sa.Double, nullable=False, server_default="0"),
)

EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

LOG_RECORDS = sa.Table(
    "log_records",
    METADATA,
    sa.Column("log", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

FIRST = sa.text("seq = 0")
"""A log's first record: an index over these alone lists the logs, however long they are."""

sa.Index("log_names", LOG_RECORDS.c.log, sqlite_where=FIRST, postgresql_where=FIRST)
