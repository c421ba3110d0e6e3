"""Leases that tell no time, and when a job was last seen to get further."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("DELETE FROM leases")
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("until")
        batch_op.add_column(sa.Column("renewals", sa.Integer(), nullable=False))
        batch_op.add_column(sa.Column("at", sa.Double(), nullable=False))
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("moved_at", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET moved_at = started_at")


def downgrade() -> None:
    op.execute("DELETE FROM leases")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("moved_at")
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("at")
        batch_op.drop_column("renewals")
        batch_op.add_column(sa.Column("until", sa.Double(), nullable=False))
