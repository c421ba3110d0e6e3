"""When caches expire, and which are to be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("caches", sa.Column("expires_at", sa.BigInteger(), nullable=True))
    op.create_index("ix_caches_expires_at", "caches", ["expires_at"])
    op.create_table(
        "deletions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("deletions")
    op.drop_index("ix_caches_expires_at", "caches")
    with op.batch_alter_table("caches", schema=None) as batch_op:
        batch_op.drop_column("expires_at")
