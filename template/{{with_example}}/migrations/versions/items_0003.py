"""The index for the list of items by name."""

from collections.abc import Sequence

from app.platform.data.migrations import create_index, drop_index

revision: str = "items_0003"
down_revision: str | Sequence[str] | None = "items_0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    create_index("ix_items_owner_name_id", "items", ["owner", "name", "id"])


def downgrade() -> None:
    drop_index("ix_items_owner_name_id", "items")
