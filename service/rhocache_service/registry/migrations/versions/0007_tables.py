"""Tables beside caches: they expire and are deleted alike."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "caches", sa.Column("is_table", sa.Boolean(), server_default=sa.false(), nullable=False)
    )


def downgrade() -> None:
    op.execute("DELETE FROM caches WHERE is_table")  # as caches they could not be opened
    with op.batch_alter_table("caches", schema=None) as batch_op:
        batch_op.drop_column("is_table")
