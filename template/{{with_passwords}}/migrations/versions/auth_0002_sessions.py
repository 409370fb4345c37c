"""The client of a session, and the time of its last refresh."""

import sqlalchemy as sa
from alembic import op

revision = "auth_0002"
down_revision = "auth_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("client_hash", sa.LargeBinary(), nullable=True))
    op.add_column("sessions", sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "refreshed_at")
    op.drop_column("sessions", "client_hash")
