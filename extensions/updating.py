"""The steps of ``copier update`` around the merge: renamed answers, and changes that would be lost.

Copier runs this in the service's folder before and after the merge (``_migrations`` in
``copier.yml``). No change of the user's is lost without a copy and a line that says so.
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
REVIEW = "You need to review these changes."  # `.ci/update.sh` of services starts to copy here
SIMILAR = "50%"  # of a file's content, from which on Git calls it renamed

Answers = dict[str, Any]


def before(given: Answers, renamed: dict[str, str]) -> None:
    """Rename questions and choices in the answers that Copier is about to read.

    A choice that no longer exists, with none ``given`` instead, ends the update: Copier would take
    the default without a warning.
    """
    answers: Answers = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    todays = _todays({renamed.get(name, name): answer for name, answer in answers.items()})
    if lines := [*_without_a_choice(todays | given)]:
        sys.exit("\n".join(["Nothing was changed:", *lines]))
    if todays != answers:
        ANSWERS.write_text(yaml.safe_dump(todays, allow_unicode=True), encoding="utf-8")


def _todays(answers: Answers) -> Answers:
    """The answers with the successors of removed choices, and ``no`` for what the user deleted."""
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
                f"  `{answers[question]}` is no longer a choice of `{question}`. Choose another "
                f"with `-d {question}=...`: {', '.join(choices)}."
            )


def after() -> None:
    """Keep what the merge took away, and list everything that needs a look."""
    deleted = _git("diff", "--name-only", "--relative", "--diff-filter=D", "HEAD").splitlines()
    added = [path for path in _untracked() if not _git("ls-tree", "HEAD", f"{Path(path).parent}/")]
    moved: dict[str, str] = {}
    kept: list[str] = []
    if deleted or added:
        with tempfile.TemporaryDirectory() as folder:
            old = _rendered(Path(folder, "old"), _git("show", f"HEAD:./{ANSWERS}"))
            changed = {path: mine for path in deleted if (mine := _changed(old, path)) is not None}
            if changed:
                new = _rendered(Path(folder, "new"), ANSWERS.read_text(encoding="utf-8"))
                moved = _carry(changed, old, _renames(old, new))
            kept = [path for path in changed if path not in moved]
            for path in kept:
                _keep(path, (old / path).read_bytes(), changed[path])
            _take_back([path for path in added if (old / path).parent.exists()])
    _report(moved, kept)


def _untracked() -> list[str]:
    return _git("ls-files", "--others", "--exclude-standard").splitlines()


def _rendered(folder: Path, answers_file: str) -> Path:
    """Render the version and the answers that an answers file names."""
    answers: Answers = yaml.safe_load(answers_file)
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    source, version = answers["_src_path"], answers["_commit"]
    copier.run_copy(source, folder, given, vcs_ref=version, defaults=True, unsafe=True, quiet=True)
    return folder


def _changed(old: Path, path: str) -> bytes | None:
    """The user's content of a file that is gone, if it differs from what was rendered."""
    if not (old / path).is_file():
        return None
    mine = _bytes("show", f"HEAD:./{path}")
    return None if mine == (old / path).read_bytes() else mine


def _renames(old: Path, new: Path) -> dict[str, str]:
    """Old path -> new path of the files that the template renamed, found by their content."""
    fields = _git(
        *("diff", "--no-index", "--name-status", "-z", "--diff-filter=R"),
        *(f"--find-renames={SIMILAR}", str(old), str(new)),
        check=False,
    ).split("\0")
    pairs = zip(fields[1::3], fields[2::3], strict=False)
    return {_relative(was, old): _relative(now, new) for was, now in pairs}


def _relative(path: str, root: Path) -> str:
    return Path("/", path.lstrip("/")).relative_to(root).as_posix()


def _carry(changed: dict[str, bytes], old: Path, renames: dict[str, str]) -> dict[str, str]:
    """Merge the user's changes into the files' new places; return old path -> new path."""
    moved = {}
    for path, mine in changed.items():
        target = Path(renames.get(path, ""))
        if not target.is_file() or _git("ls-tree", "HEAD", target.as_posix()):
            continue
        with tempfile.TemporaryDirectory() as folder:
            before = Path(folder, "mine")
            before.write_bytes(mine)
            labels = ("-L", "before updating", "-L", "original", "-L", "after updating")
            files = (str(before), str(old / path), str(target))
            merged = _bytes("merge-file", "--stdout", *labels, *files, check=False)
        if merged:
            target.write_bytes(merged)
            moved[path] = target.as_posix()
    return moved


def _keep(path: str, before: bytes, mine: bytes) -> None:
    """Write the user's changes of a file that is gone beside it, as a patch."""
    old, new = before.splitlines(keepends=True), mine.splitlines(keepends=True)
    patch = difflib.diff_bytes(
        difflib.unified_diff, old, new, f"a/{path}".encode(), f"b/{path}".encode()
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.rej").write_bytes(b"".join(patch))


def _take_back(paths: list[str]) -> None:
    """Delete new files of folders that the user deleted."""
    for path in paths:
        Path(path).unlink()
        if not any(Path(path).parent.iterdir()):
            Path(path).parent.rmdir()


def _report(moved: dict[str, str], kept: list[str]) -> None:
    grep = ("grep", "--name-only", "--untracked", "--fixed-strings", MARKER)
    conflicts = _git(*grep, check=False).splitlines()
    if lines := [*_moved(moved), *_conflicts(conflicts), *_gone(kept)]:
        sys.stderr.write("\n".join(["", REVIEW, *lines, ""]))


def _moved(paths: dict[str, str]) -> Iterator[str]:
    if paths:
        yield "The template renamed files that you had changed. Your changes moved along:"
        yield from (f"    {old} -> {new}" for old, new in paths.items())


def _conflicts(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "Conflicts: you and the template changed the same lines. Resolve and `git add` them:"
        yield from (f"    {path}" for path in paths)


def _gone(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "The template removed files that you had changed. Your changes are kept as patches:"
        yield from (f"    {path}.rej" for path in paths)
        yield "Apply them to the files that replaced these, and delete the patches; the template's"
        yield "CHANGELOG.md lists what moved. To restore a whole file:"
        yield f"    git checkout HEAD -- {paths[0]}"


def _git(*arguments: str, check: bool = True) -> str:
    return _bytes("-c", "core.quotePath=false", *arguments, check=check).decode()


def _bytes(*arguments: str, check: bool = True) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=check).stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["before", given, *renamed]:
            before(json.loads(given), dict(each.split("=", 1) for each in renamed))
        case ["after"]:
            after()
