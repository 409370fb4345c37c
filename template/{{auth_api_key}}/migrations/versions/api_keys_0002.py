"""Keys that are disabled for a while, and the index of the list that administrators read."""

import sqlalchemy as sa
from alembic import op

from app.platform.data.migrations import create_index, drop_index

revision = "api_keys_0002"
down_revision = "api_keys_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
    create_index("ix_api_keys_created_at_id", "api_keys", ["created_at", "id"])


def downgrade() -> None:
    drop_index("ix_api_keys_created_at_id", "api_keys")
    op.drop_column("api_keys", "disabled_at")
