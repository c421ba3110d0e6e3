"""Run by Alembic, on the connection that it is given."""

from alembic import context

from rhocache_service.registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite can't alter a column
)
with context.begin_transaction():
    context.run_migrations()
