"""The table of uploads."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "uploads_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("uploads",)
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", time, server_default=sa.func.now(), nullable=False),
        sa.Column("changed_at", time, server_default=sa.func.now(), nullable=False),
        sa.Column("received_at", time, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'stored', 'failed', 'deleted')", name=op.f("ck_uploads_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_record", "uploads", ["record"])
    op.create_index(
        "ix_uploads_changed_at",
        "uploads",
        ["changed_at"],
        postgresql_where=sa.text("state <> 'stored'"),
    )


def downgrade() -> None:
    op.drop_table("uploads")
