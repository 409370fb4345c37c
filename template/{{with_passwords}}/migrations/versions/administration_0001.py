"""Roles of users."""

import sqlalchemy as sa
from alembic import op

revision = "administration_0001"
down_revision = None
branch_labels = ("administration",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "role_grants",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column(
            "granted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("user_id", "role", name=op.f("pk_role_grants")),
    )


def downgrade() -> None:
    op.drop_table("role_grants")
