"""Rotation: of many cases that are alike, a run takes a share, and the commit decides which.

``ROTATION`` is a commit's hash; unset, everything runs. The mark ``rotates`` names a case's group,
and into how many shares the group is cut:

    @pytest.mark.rotates("combinations", shares=10)

Cases of one group with the same parameters run, or are left out, together. What was left out is
listed in ``build/left-out.txt``.
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests import generator

LEFT_OUT = generator.ROOT / "build" / "left-out.txt"


def share_of(commit: str, shares: int) -> int:
    """The number of the share that a commit takes, from 0."""
    return int(commit[:8], 16) % shares


def taken(keys: list[str], shares: int, commit: str) -> set[str]:
    """The keys of a commit's share; each key is in one share."""
    return set(sorted(set(keys))[share_of(commit, shares) :: shares])


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is not in the share of ``ROTATION``, and write it down."""
    commit = os.environ.get("ROTATION")
    if not commit:
        return
    groups: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for item in items:
        if group := _group(item):
            groups[group].append(_key(item))
    kept = {group: taken(keys, group[1], commit) for group, keys in groups.items()}
    out = [item for item in items if (g := _group(item)) and _key(item) not in kept[g]]
    if out:
        items[:] = [item for item in items if item not in set(out)]
        config.hook.pytest_deselected(items=out)
        if getattr(config, "workerinput", {"workerid": "gw0"})["workerid"] == "gw0":
            _write_down(groups, kept)


def _group(item: pytest.Item) -> tuple[str, int] | None:
    marker = item.get_closest_marker("rotates")
    return (marker.args[0], marker.kwargs["shares"]) if marker else None


def _key(item: pytest.Item) -> str:
    """The parameters of a case, or its name when it has none."""
    _, _, parameters = item.nodeid.partition("[")
    return parameters or item.nodeid


def _write_down(
    groups: dict[tuple[str, int], list[str]], kept: dict[tuple[str, int], set[str]]
) -> None:
    Path(LEFT_OUT).parent.mkdir(exist_ok=True)
    with LEFT_OUT.open("a", encoding="utf-8") as file:
        for (name, shares), keys in sorted(groups.items()):
            run = sorted(key.rstrip("]") for key in kept[name, shares])
            file.write(f"{name}: ran {len(run)} of {len(set(keys))}: {', '.join(run)}\n")
