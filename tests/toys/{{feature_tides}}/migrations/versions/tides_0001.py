"""The table of the tides."""

import sqlalchemy as sa
from alembic import op

revision = "tides_0001"
down_revision = None
branch_labels = ("tides",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tides",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tides")),
    )


def downgrade() -> None:
    op.drop_table("tides")
