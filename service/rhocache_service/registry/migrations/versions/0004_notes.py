"""Jobs' metadata, to find them by."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_AT_ONCE = 1000  # jobs whose specs are in memory


def upgrade() -> None:
    notes = op.create_table(
        "notes",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.PrimaryKeyConstraint("job", "key"),
    )
    op.create_index("ix_notes_key_value", "notes", ["key", "value"])
    jobs = sa.table("jobs", sa.column("id"), sa.column("number"), sa.column("spec", sa.JSON()))
    last = 0
    while found := _jobs_after(jobs, last):
        last = found[-1].number
        made = [
            {"job": row.id, "key": key, "value": value}
            for row in found
            for key, value in row.spec.get("metadata", {}).items()
            if "\0" not in key + value  # PostgreSQL has no text for it
        ]
        op.bulk_insert(notes, made)


def _jobs_after(jobs: sa.TableClause, number: int) -> Sequence[Any]:
    query = sa.select(jobs).where(jobs.c.number > number).order_by(jobs.c.number).limit(_AT_ONCE)
    return op.get_bind().execute(query).all()


def downgrade() -> None:
    op.drop_table("notes")
