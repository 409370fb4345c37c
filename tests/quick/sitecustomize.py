"""Copier without what it repeats for each file and each folder: a render takes half of the time.

What it writes is the same: ``tests/renders/test_quick.py``. Python loads this by itself at the
start of processes that have this folder in ``PYTHONPATH``, as those of updates.
"""

from pathlib import Path
from typing import Any

from copier import _main

_rendered = _main.Worker._render_string


def _answers_relpath(worker: _main.Worker) -> Path:
    """The path of the answers file; Copier renders it, though it is no template here."""
    return Path(worker.answers_file or worker.template.answers_relpath)


def _render_string(worker: _main.Worker, string: str, extra_context: Any = None) -> str:
    """A rendered string; most are parts of paths, and no templates.

    The template's folder comes first in a copy, and the extensions refuse one at that moment.
    """
    if "{" not in string and string != worker.template.subdirectory:
        return string
    return _rendered(worker, string, extra_context)


# Copier asks Git about every file that it writes, for checkouts without executable bits.
_main.is_git_available = lambda: False  # type: ignore[attr-defined]
_main.Worker.answers_relpath = property(_answers_relpath)  # type: ignore[assignment,method-assign]
_main.Worker._render_string = _render_string  # type: ignore[assignment,method-assign]
