"""What ``copier update`` does besides merging: it moves old answers along, and loses nothing.

Copier runs this in the service's folder, before the merge and after it: ``_migrations`` in
``copier.yml``. Nothing of the user's is deleted without a copy beside it and a line that says so.
"""

import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from extensions import options

ANSWERS = Path(".copier-answers.yml")
MARKER = "<<<<<<< before updating"

Answers = dict[str, Any]


def before(given: Answers, renamed: dict[str, str]) -> None:
    """Write today's names of questions and choices into the answers that Copier reads next.

    A choice that is gone, and for which no other one is ``given``, ends the update: Copier would
    take the default without a word.
    """
    answers: Answers = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    todays = _todays({renamed.get(name, name): answer for name, answer in answers.items()})
    if lines := [*_without_a_choice(todays | given)]:
        sys.exit("\n".join(["Nothing was changed:", *lines]))
    if todays != answers:
        ANSWERS.write_text(yaml.safe_dump(todays, allow_unicode=True), encoding="utf-8")


def _todays(answers: Answers) -> Answers:
    """Put successors in the place of choices that are gone, and no for what the user deleted."""
    available = options.load()
    successors = {(o.question, old): o.choice for o in available for old in o.was}
    todays = {
        name: successors.get((name, answer), answer) if isinstance(answer, str) else answer
        for name, answer in answers.items()
    }
    for option in available:
        if option.question == options.FACT and todays.get(option.choice) is True:
            folder = options.TEMPLATE / f"{{{{{option.variable}}}}}"
            todays[option.choice] = any(map(Path.exists, map(Path, options.destinations(folder))))
    return todays


def _without_a_choice(answers: Answers) -> Iterator[str]:
    for question in sorted({option.question for option in options.load()} - {options.FACT}):
        choices = [option.choice for option in options.load() if option.question == question]
        if isinstance(answers.get(question), str) and answers[question] not in choices:
            yield (
                f"  `{answers[question]}` is no choice of `{question}` any more. Say which one "
                f"instead, by `-d {question}=...`: {', '.join(choices)}."
            )


def after() -> None:
    """Keep what the merge took away, and list all that somebody should look at."""
    deleted = _git("diff", "--name-only", "--relative", "--diff-filter=D", "HEAD").splitlines()
    added = [path for path in _untracked() if not _git("ls-tree", "HEAD", f"{Path(path).parent}/")]
    kept: list[str] = []
    if deleted or added:
        with tempfile.TemporaryDirectory() as folder:
            old = _as_it_was_rendered(Path(folder))
            kept = [path for path in deleted if _keep(old, path)]
            _take_back([path for path in added if (old / path).parent.exists()])
    _report(kept)


def _untracked() -> list[str]:
    return _git("ls-files", "--others", "--exclude-standard").splitlines()


def _as_it_was_rendered(folder: Path) -> Path:
    """Render the version that the service came from, with the answers that it had."""
    answers: Answers = yaml.safe_load(_git("show", f"HEAD:./{ANSWERS}"))
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    source, version = answers["_src_path"], answers["_commit"]
    copier.run_copy(source, folder, given, vcs_ref=version, defaults=True, unsafe=True, quiet=True)
    return folder


def _keep(old: Path, path: str) -> bool:
    """Keep beside it what the user had changed in a file that is gone; say whether there was."""
    try:
        before = (old / path).read_text(encoding="utf-8").splitlines(keepends=True)
        mine = _git("show", f"HEAD:./{path}").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return False
    changes = "".join(difflib.unified_diff(before, mine, f"a/{path}", f"b/{path}"))
    if changes:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{path}.rej").write_text(changes, encoding="utf-8")
    return bool(changes)


def _take_back(paths: list[str]) -> None:
    """Remove what is new in a folder that the user deleted: it stays deleted."""
    for path in paths:
        Path(path).unlink()
        if not any(Path(path).parent.iterdir()):
            Path(path).parent.rmdir()


def _report(kept: list[str]) -> None:
    conflicts = _git("grep", "--name-only", "--fixed-strings", MARKER, check=False).splitlines()
    if lines := [*_conflicts(conflicts), *_gone(kept)]:
        sys.stderr.write("\n".join(["", *lines, ""]))


def _conflicts(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "You and the template changed the same lines. Both are marked; choose, and `git add`:"
        yield from (f"    {path}" for path in paths)


def _gone(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "You had changed files that are gone now. What you changed is kept beside them:"
        yield from (f"    {path}.rej" for path in paths)
        yield "Put it where it belongs now, and delete those. A whole file comes back, too:"
        yield f"    git checkout HEAD -- {paths[0]}"


def _git(*arguments: str, check: bool = True) -> str:
    command = ["git", "-c", "core.quotePath=false", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=check)
    return done.stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["before", given, *renamed]:
            before(json.loads(given), dict(each.split("=", 1) for each in renamed))
        case ["after"]:
            after()
