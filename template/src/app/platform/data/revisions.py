"""Migrations of parts that are gone: another answer took a part's place, or it was deleted.

What such a part made stays in the database, and so does its revision in ``alembic_version``, in
case the part comes back. Until then nothing else may stumble over it. A part's revisions are called
``<branch>_<four digits>``, and their files begin with that.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from alembic.script import ScriptDirectory

OF_A_PART = re.compile(r"(?P<branch>[a-z_]+)_\d{4}")


def existing_revisions(migration: str, *revisions: str) -> list[str]:
    """Return those that the migration in the file ``migration`` can still depend on."""
    folder = Path(migration).parent
    return [r for r in revisions if not _branch(r) or any(folder.glob(f"{r}*.py"))]


def without_removed_branches(applied: Iterable[str], scripts: ScriptDirectory) -> tuple[str, ...]:
    """Return what a database had, without what parts had that are gone.

    An unknown revision of a part that is there stays in: the database is ahead of this code, and
    Alembic refuses that.
    """
    branches = {_branch(script.revision) for script in scripts.walk_revisions()}
    return tuple(each for each in applied if _branch(each) in {None, *branches})


def _branch(revision: str) -> str | None:
    match = OF_A_PART.fullmatch(revision)
    return match and match["branch"]
