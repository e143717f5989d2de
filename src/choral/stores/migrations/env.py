"""What Alembic runs: the steps, in the transaction that `choral.stores.schema` has begun."""

from alembic import context

from choral.stores.tables import METADATA, VERSION_TABLE


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        transactional_ddl=True,  # in SQLite, too: its transactions are begun by hand
    )
    context.run_migrations()


if hasattr(context, "config"):  # Alembic runs this file; who merely imports it runs nothing
    _run()
