"""Alembic revisions of components that are no longer part of the service.

When an option is switched off or the example is deleted, its tables stay in the database, and so
does its revision in ``alembic_version``, in case it returns. Other migrations must work without it.
A component's revisions are named ``<branch>_<four digits>``, and their files start with that name.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from app.platform import about

COMPONENT_REVISION = re.compile(r"(?P<branch>[a-z_]+)_\d{4}")


@cache
def release_scripts() -> ScriptDirectory:
    """The migrations of this release, read once."""
    config = Config(toml_file=about.project_folder() / "pyproject.toml")
    scripts = ScriptDirectory.from_config(config)
    scripts.get_heads()  # reads all of them
    return scripts


def existing_revisions(migration: str, *revisions: str) -> list[str]:
    """The ``revisions`` whose files still exist, for ``depends_on`` in the file ``migration``."""
    folder = Path(migration).parent
    return [r for r in revisions if not _branch(r) or any(folder.glob(f"{r}*.py"))]


def without_removed_branches(applied: Iterable[str], scripts: ScriptDirectory) -> tuple[str, ...]:
    """The applied revisions, without those on branches that have no migrations here any more.

    Unknown revisions on existing branches stay: the database is ahead of the code, and Alembic
    rejects that.
    """
    branches = {_branch(script.revision) for script in scripts.walk_revisions()}
    return tuple(each for each in applied if _branch(each) in {None, *branches})


def own_heads(scripts: ScriptDirectory) -> list[str]:
    """The heads of your own migrations: one, none yet, or several after a merge of Git branches."""
    return sorted(head for head in scripts.get_heads() if not _branch(head))


def component_heads(scripts: ScriptDirectory) -> list[str]:
    """The newest revision of each component."""
    return sorted(head for head in scripts.get_heads() if _branch(head))


def missing_revisions(applied: Iterable[str], scripts: ScriptDirectory) -> list[str]:
    """The revisions of this release that a database with the ``applied`` ones lacks.

    None if it has others besides: then a newer release has migrated it.
    """
    known = {script.revision for script in scripts.walk_revisions()}
    heads = without_removed_branches(applied, scripts)
    if not known.issuperset(heads):
        return []
    done = {script.revision for script in scripts.iterate_revisions(heads, "base")}
    return sorted(known - done)


def _branch(revision: str) -> str | None:
    match = COMPONENT_REVISION.fullmatch(revision)
    return match and match["branch"]
