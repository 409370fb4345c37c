"""The items table of the example feature."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "items_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("items",)
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    op.create_index("ix_items_owner_created_at_id", "items", ["owner", "created_at", "id"])


def downgrade() -> None:
    op.drop_table("items")
