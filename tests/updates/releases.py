"""Versions that services in the world were made from: some of this repository's own past.

Tags come by themselves; what was used before there were any stands here.
"""

import subprocess
from pathlib import Path

from tests import generator
from tests.updates import world

BEFORE_TAGS = {
    "0.0.1": "9536882",  # one answer and `none` to every question; no update could get there
    "0.0.2": "55eb5ad",  # callers are known by a fact that the auth styles share
    "0.0.3": "46363d4",  # all answers of today
    "0.0.4": "40d06da",  # migrations and databases did not survive an answer that left
    "0.0.5": "3d4a951",  # the last in which src/app was flat
}
NOW = "999.0.0"


class Missing(Exception):
    """This clone does not have the whole history."""


def kept() -> dict[str, str]:
    """Return the commit of each kept version, the oldest first."""
    tags = world.git(generator.ROOT, "tag", "--list", "--sort=v:refname", "[0-9]*").split()
    return BEFORE_TAGS | {tag: tag for tag in tags}


def publish_all(folder: Path) -> list[str]:
    """Make a repository at ``folder`` with every kept version and the working tree as tags.

    Raises ``Missing`` when history was cut off, as in a shallow clone.
    """
    folder.mkdir()
    world.git(folder, "init", "--quiet")
    for version, commit in kept().items():
        world.empty(folder)
        archive = ["git", "archive", commit, "template", "extensions", "copier.yml"]
        tree = subprocess.run(archive, cwd=generator.ROOT, capture_output=True, check=False)
        if tree.returncode:
            raise Missing(f"{commit} is not in this clone: git fetch --unshallow")
        subprocess.run(["tar", "-x"], cwd=folder, input=tree.stdout, check=True)
        world.publish(folder, version)
    world.empty(folder)
    generator.copy_of_template(folder)
    world.publish(folder, NOW)
    return [*kept(), NOW]
