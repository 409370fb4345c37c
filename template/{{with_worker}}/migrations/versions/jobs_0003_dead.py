"""An index of dead jobs: the metrics of the backlog read all rows without it."""

from sqlalchemy import text

from app.platform.data.migrations import create_index, drop_index

revision = "jobs_0003"
down_revision = "jobs_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_jobs_dead", "jobs", ["created_at"], postgresql_where=text("status = 'dead'"))


def downgrade() -> None:
    drop_index("ix_jobs_dead", "jobs")
