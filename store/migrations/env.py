"""Run by alembic. The connection, already in its transaction, comes from store.upgrades.upgrade."""

from alembic import context

from store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is transactional once BEGIN is ours to say
)
with context.begin_transaction():
    context.run_migrations()
