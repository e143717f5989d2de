"""Format 2: leases that end, and logs that several processes append to."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

FIRST = sa.text("seq = 0")


def upgrade() -> None:
    """Add the columns of a lease and the table of logs."""
    op.add_column("runs", sa.Column("owner", sa.Text))
    op.add_column("runs", sa.Column("lease_until", sa.Double, nullable=False, server_default="0"))
    op.create_table(
        "log_records",
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("log_names", "log_records", ["log"], sqlite_where=FIRST, postgresql_where=FIRST)
    op.execute("UPDATE format SET version = 2")
