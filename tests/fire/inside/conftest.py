"""What tests under fire share: the figures that they note, and whether they go to the full size."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FULL = bool(os.environ.get("FULL"))
Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Note figures: ``note(requests=4000, lost=0)``. They are printed, and kept for the tables."""

    def note(**figures: Any) -> None:
        where = {"service": os.environ.get("SERVICE", ""), "full": FULL}
        file = request.path.name.removeprefix("test_")
        line = {"test": f"{file}::{request.node.name}", **where, "figures": figures}
        print(json.dumps(line))  # noqa: T201
        if kept := os.environ.get("FIGURES"):
            with Path(kept).open("a") as stream:
                stream.write(json.dumps(line) + "\n")

    return note
