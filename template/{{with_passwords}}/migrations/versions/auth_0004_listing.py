"""The index for the list of users, which administrators read in pages."""

from app.platform.data.migrations import create_index, drop_index

revision = "auth_0004"
down_revision = "auth_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_accounts_created_at_id", "accounts", ["created_at", "id"])


def downgrade() -> None:
    drop_index("ix_accounts_created_at_id", "accounts")
