"""A copy of the service with migrations of its own, and the processes that run them."""

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
    {up}


def downgrade() -> None:
    {down_by}
"""
EXPAND = 'op.add_column("items", sa.Column("size", sa.Integer(), nullable=True))'
CONTRACT = 'op.drop_column("items", "size")'
INDEX = 'migrations.create_index("ix_items_size", "items", ["size"])'
NO_INDEX = 'migrations.drop_index("ix_items_size", "items")'
SLOW = """op.create_table("slow", sa.Column("id", sa.Integer(), primary_key=True))
    op.execute("INSERT INTO slow VALUES (1)")
    op.execute("SELECT pg_sleep(30)")"""


class Release:
    """What the next release brings to the database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: str | None = None
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("src", "migrations"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)

    def add(self, up: str, down_by: str = "pass") -> None:
        """Add a migration to the service's own branch."""
        number = len(list(self._versions.glob("own_*.py"))) + 1
        revision = f"own_{number}"
        (self._versions / f"{revision}.py").write_text(
            MIGRATION.format(
                revision=revision,
                down=self._last,
                labels=None if self._last else ("app",),
                depends=None if self._last else ("items_0001",),
                up=up,
                down_by=down_by,
            )
        )
        self._last = revision

    def replace_last(self, up: str) -> None:
        """Mend the last migration."""
        file = self._versions / f"{self._last}.py"
        head, _, rest = file.read_text().partition("def upgrade() -> None:\n    ")
        _, _, tail = rest.partition("\n\n\ndef downgrade")
        file.write_text(f"{head}def upgrade() -> None:\n    {up}\n\n\ndef downgrade{tail}")

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
