"""A copy of the service with additional migrations, and processes that run them."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

MIGRATION = """
import sqlalchemy as sa
from alembic import op

from app.platform.data import migrations

revision = "{revision}"
down_revision = {down!r}
branch_labels = {labels!r}
depends_on = {depends!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
"""
EXPAND = 'op.add_column("items", sa.Column("size", sa.Integer(), nullable=True))'
CONTRACT = 'op.drop_column("items", "size")'
INDEX = 'migrations.create_index("ix_items_size", "items", ["size"])'
NO_INDEX = 'migrations.drop_index("ix_items_size", "items")'
SLOW = """op.create_table("slow", sa.Column("id", sa.Integer(), primary_key=True))
    op.execute("INSERT INTO slow VALUES (1)")
    op.execute("SELECT pg_sleep(30)")"""


class Release:
    """The next release of the service, with its migrations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: str | None = None
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("src", "migrations"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("pyproject.toml", "gunicorn.conf.py"):  # the second marks a project's folder
            shutil.copy(ROOT / name, folder)

    def add(self, upgrade: str, downgrade: str = "pass") -> None:
        """Add a migration to the branch ``app``."""
        number = len(list(self._versions.glob("own_*.py"))) + 1
        revision = f"own_{number}"
        (self._versions / f"{revision}.py").write_text(
            MIGRATION.format(
                revision=revision,
                down=self._last,
                labels=None if self._last else ("app",),
                depends=None if self._last else ("items_0001",),
                upgrade=upgrade,
                downgrade=downgrade,
            )
        )
        self._last = revision

    def replace_last(self, upgrade: str) -> None:
        """Replace the last migration."""
        file = self._versions / f"{self._last}.py"
        head, _, rest = file.read_text().partition("def upgrade() -> None:\n    ")
        _, _, tail = rest.partition("\n\n\ndef downgrade")
        file.write_text(f"{head}def upgrade() -> None:\n    {upgrade}\n\n\ndef downgrade{tail}")

    def run(self, environment: dict[str, str], *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", *(command or ("app", "migrate"))],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(self.folder / "src")},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def _versions(self) -> Path:
        return self.folder / "migrations" / "versions"
