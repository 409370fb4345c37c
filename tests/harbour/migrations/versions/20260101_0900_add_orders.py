"""add orders"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from app.platform.data.revisions import existing_revisions

revision: str = "8c1d0f6e2a5b"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("app",)
depends_on: str | Sequence[str] | None = existing_revisions(
    __file__, *["auth_0001", "items_0001", "jobs_0001"]
)


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("what", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index(op.f("ix_orders_owner"), "orders", ["owner"])


def downgrade() -> None:
    op.drop_table("orders")
