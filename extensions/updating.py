"""The steps of ``copier update`` around the merge: renamed answers, and changes that would be lost.

Copier runs this in the service's folder before and after the merge (``_migrations`` in
``copier.yml``). No change of the user's is lost without a copy and a line that says so.
"""

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import copier
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from extensions import options
from extensions.answers import UPDATING

MARKER = "^<<<<<<< before updating"
REVIEW = "You need to review these changes."  # `.ci/update.sh` of services starts to copy here
# Files with one import and one router or component a line, each of which stands for itself.
LISTS = ("src/app/api.py", "src/app/main.py")
CONFLICT = re.compile(
    r"^<{7} .*\n([\s\S]*?)^\|{7} .*\n([\s\S]*?)^={7}\n([\s\S]*?)^>{7} .*\n", re.MULTILINE
)
SIMILAR = "50%"  # of a file's content, from which on Git calls it renamed
# The user's settings of Git, which would change what it prints.
PLAIN = ("-c", "core.quotePath=false", "-c", "grep.fullName=false", "-c", "diff.renameLimit=0")

Answers = dict[str, Any]
Moves = dict[str, str]  # old path -> new path
Environment = dict[str, str]


def before(answers_file: Path, given: Answers, renamed: dict[str, str]) -> None:
    """Rename questions and choices in the answers that Copier is about to read.

    A choice that no longer exists, with none ``given`` instead, ends the update: Copier would take
    the default without a warning. So do files that Git does not know: an update could replace or
    delete them, and nothing could bring them back. Copier overlooks them if Git is configured not
    to show them.
    """
    if unknown := _untracked():
        _refuse(
            "Commit, ignore or move these files first; no commit has them, and the update could "
            "replace them:",
            *(f"  {path}" for path in unknown),
        )
    answers: Answers = yaml.safe_load(answers_file.read_text(encoding="utf-8"))
    todays = _todays({renamed.get(name, name): answer for name, answer in answers.items()})
    if lines := [*_without_a_choice(todays | given)]:
        _refuse(*lines)
    if todays != answers:
        answers_file.write_text(yaml.safe_dump(todays, allow_unicode=True), encoding="utf-8")


def _refuse(*lines: str) -> None:
    sys.exit("\n".join(["Nothing was changed:", *lines]))


def _todays(answers: Answers) -> Answers:
    """The answers with the successors of removed choices, and ``no`` for what the user deleted."""
    available = options.load()
    successors = {(o.question, old): o.choice for o in available for old in o.was}
    todays = {
        name: successors.get((name, answer), answer) if isinstance(answer, str) else answer
        for name, answer in answers.items()
    }
    for option in available:
        if option.name == f"{options.FACT}_{option.choice}" and todays.get(option.choice) is True:
            paths = options.destinations(options.TEMPLATE / option.folder)
            code = [path for path in paths if path.startswith("src/")]
            todays[option.choice] = any(map(Path.exists, map(Path, code)))
    return todays


def _without_a_choice(answers: Answers) -> Iterator[str]:
    for question in sorted({option.question for option in options.load()} - {options.FACT}):
        choices = [option.choice for option in options.load() if option.question == question]
        if isinstance(answers.get(question), str) and answers[question] not in choices:
            yield (
                f"  `{answers[question]}` is no longer a choice of `{question}`. Choose another "
                f"with `-d {question}=...`: {', '.join(choices)}."
            )


@dataclass(frozen=True)
class Renders:
    """The service as the template alone makes it, before and after the update."""

    folder: Path
    answers_file: Path
    template: str

    @cached_property
    def old(self) -> Path:
        return self._rendered("old", _git("show", f"HEAD:./{self.answers_file.as_posix()}"))

    @cached_property
    def new(self) -> Path:
        return self._rendered("new", self.answers_file.read_text(encoding="utf-8"))

    def _rendered(self, name: str, answers_file: str) -> Path:
        answers: Answers = yaml.safe_load(answers_file)
        given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
        copier.run_copy(
            self.template,
            self.folder / name,
            given,
            answers_file=self.answers_file,
            vcs_ref=answers["_commit"],
            defaults=True,
            unsafe=True,
            quiet=True,
        )
        return self.folder / name


def after(answers_file: Path, template: str) -> None:
    """Keep what the merge took away, and list everything that needs a look."""
    deleted = _listed("diff", "--name-only", "--relative", "--diff-filter=D", "HEAD")
    added = [path for path in _untracked() if not _git("ls-tree", "HEAD", f"{Path(path).parent}/")]
    along: Moves = {}
    moved: Moves = {}
    kept: list[str] = []
    linked: list[str] = []
    with tempfile.TemporaryDirectory(prefix=UPDATING) as folder:
        renders = Renders(Path(folder).resolve(), answers_file, template)
        changed = {path: mine for path in deleted if (mine := _changed(renders, path)) is not None}
        if changed:
            along = _carry(changed, renders.old, _renames(renders.old, renders.new))
        kept = [path for path in changed if path not in along]
        for path in kept:
            _keep(path, (renders.old / path).read_bytes(), changed[path])
        if added:
            _take_back([path for path in added if (renders.old / path).parent.exists()])
        if _listed("diff", "--name-only", "HEAD", "--", str(answers_file)):
            moved, linked = _follow(renders)
        for path in {*LISTS} & {*_marked()}:
            _resolve(path, renders)
    _report(along, moved, kept, linked)


def _untracked() -> list[str]:
    return _listed("ls-files", "--others", "--exclude-standard")


def _changed(renders: Renders, path: str) -> bytes | None:
    """The user's content of a file that is gone, if it differs from what was rendered."""
    if not (renders.old / path).is_file():
        return None
    mine = _bytes("show", f"HEAD:./{path}")
    return None if mine == (renders.old / path).read_bytes() else mine


def _renames(old: Path, new: Path) -> Moves:
    """The files that the template renamed, found by their content."""
    pairs = _renamed("diff", "--no-index", str(old), str(new))
    return {_relative(was, old): _relative(now, new) for was, now in pairs.items()}


def _relative(path: str, root: Path) -> str:
    return Path("/", path.lstrip("/")).relative_to(root).as_posix()


def _moves(old: Path) -> Moves:
    """The files that the user moved, found by their content."""
    own = Path(_git("rev-parse", "--git-path", "objects").strip()).absolute()
    with tempfile.TemporaryDirectory() as folder:
        aside = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(own),
        }
        tree = _git("rev-parse", "HEAD:./").strip()
        repository = _git("rev-parse", "--absolute-git-dir").strip()
        of_old = (f"--git-dir={repository}", f"--work-tree={old}")
        _git("-C", str(old), *of_old, "add", "--all", "--force", ".", env=aside)
        return _renamed("diff-tree", "-r", _git("write-tree", env=aside).strip(), tree, env=aside)


def _renamed(*diff: str, env: Environment | None = None) -> Moves:
    command, *rest = diff
    how = ("--name-status", "-z", "--diff-filter=R", f"--find-renames={SIMILAR}", "--no-ext-diff")
    fields = _git(command, *how, *rest, check=False, env=env).split("\0")
    return dict(zip(fields[1::3], fields[2::3], strict=False))


def _carry(changed: dict[str, bytes], old: Path, renames: Moves) -> Moves:
    """Merge the user's changes into the files' new places; return those that were merged."""
    moved = {}
    for path, mine in changed.items():
        target = Path(renames.get(path, ""))
        if not target.is_file() or _git("ls-tree", "HEAD", target.as_posix()):
            continue
        if merged := _merged(mine, old / path, target.read_bytes()):
            target.write_bytes(merged)
            moved[path] = target.as_posix()
    return moved


def _links(old: Path) -> Moves:
    """The files of the template that the user replaced by symbolic links, and what these name."""
    entries = (entry.split("\t") for entry in _listed("ls-tree", "-r", "HEAD"))
    links = [path for mode, path in entries if mode.startswith("120000") and (old / path).is_file()]
    return {path: os.path.relpath(Path(path).resolve()) for path in links}


def _follow(renders: Renders) -> tuple[Moves, list[str]]:
    """Merge the template's changes into the files that the user moved; return those files.

    Also return the files whose links name nothing in the service: a patch beside each has the
    template's changes.
    """
    moved, elsewhere = {}, []
    for path, target in (_moves(renders.old) | _links(renders.old)).items():
        old, new, mine = renders.old / path, renders.new / path, Path(target)
        if not new.is_file() or new.read_bytes() == old.read_bytes():
            continue
        if target.startswith("..") or not mine.is_file():
            _keep(path, old.read_bytes(), new.read_bytes())
            elsewhere.append(path)
        else:
            mine.write_bytes(_merged(mine.read_bytes(), old, new.read_bytes()) or mine.read_bytes())
            moved[path] = target
    return moved, elsewhere


def _resolve(path: str, renders: Renders) -> None:
    """Merge a list in which one side added lines next to lines that the other side removed."""
    mine, theirs = _bytes("show", f"HEAD:./{path}"), (renders.new / path).read_bytes()
    merged = _merged(mine, renders.old / path, theirs, "--diff3").decode()
    text = CONFLICT.sub(_added_and_removed, merged)
    if not CONFLICT.search(text):
        Path(path).write_bytes(text.encode())
        _git("reset", "--quiet", "--", path)


def _added_and_removed(conflict: re.Match[str]) -> str:
    """What a conflict comes to if one side only added lines, and the other only removed some."""
    mine, base, theirs = (side.splitlines(keepends=True) for side in conflict.groups())
    for longer, shorter in ((mine, theirs), (theirs, mine)):
        original, left = _matches(longer, base), set(_matches(shorter, base).values())
        if len(original) == len(base) and len(left) == len(shorter):
            return "".join(
                line for n, line in enumerate(longer) if n not in original or original[n] in left
            )
    return conflict[0]


def _matches(side: list[str], base: list[str]) -> dict[int, int]:
    """The lines of ``side`` that ``base`` has, in the same order: the number in each."""
    matcher = difflib.SequenceMatcher(None, side, base, autojunk=False)
    return {
        block.a + n: block.b + n
        for block in matcher.get_matching_blocks()
        for n in range(block.size)
    }


def _merged(mine: bytes, base: Path, theirs: bytes, *options: str) -> bytes:
    """Both sides' changes, with conflicts marked; nothing if the files are not text."""
    with tempfile.TemporaryDirectory() as folder:
        sides = Path(folder, "mine"), Path(folder, "theirs")
        for path, side in zip(sides, (mine, theirs), strict=True):
            path.write_bytes(side)
        labels = ("-L", "before updating", "-L", "original", "-L", "after updating")
        files = (str(sides[0]), str(base), str(sides[1]))
        return _bytes("merge-file", "--stdout", *options, *labels, *files, check=False)


def _keep(path: str, before: bytes, after: bytes) -> None:
    """Write changes that no file takes beside their file, as a patch."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
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


def _report(along: Moves, moved: Moves, kept: list[str], linked: list[str]) -> None:
    marked = _marked()
    rejected = _listed("ls-files", "--others", "--", "*.rej")
    rejected = [path for path in rejected if path.removesuffix(".rej") not in [*kept, *linked]]
    lines = [
        *_renamed_by_template(along),
        *_moved_by_user(moved),
        *_linked_by_user(linked),
        *_conflicts(marked),
        *_rejected(rejected),
        *_gone(kept),
    ]
    if lines:
        sys.stderr.write("\n".join(["", REVIEW, *lines, ""]))


def _marked() -> list[str]:
    grep = ("grep", "--name-only", "--untracked", "--no-color", "--basic-regexp", "-e", MARKER)
    return _listed(*grep, check=False)


def _renamed_by_template(paths: Moves) -> Iterator[str]:
    if paths:
        yield "The template renamed files that you had changed. Your changes moved along:"
        yield from (f"    {old} -> {new}" for old, new in paths.items())


def _moved_by_user(paths: Moves) -> Iterator[str]:
    if paths:
        yield "The template changed files that you had moved. Its changes were merged into yours:"
        yield from (f"    {old} -> {new}" for old, new in paths.items())


def _linked_by_user(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "The template changed files that you had replaced by links. Its changes are patches:"
        yield from (f"    {path}.rej" for path in paths)


def _conflicts(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "Conflicts: you and the template changed the same lines. Resolve and `git add` them:"
        yield from (f"    {path}" for path in paths)


def _rejected(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "Conflicts: you and the template changed the same lines. Yours are in"
        yield "patches. Apply them to the files, and delete the patches:"
        yield from (f"    {path}" for path in paths)


def _gone(paths: list[str]) -> Iterator[str]:
    if paths:
        yield "The template removed files that you had changed. Your changes are kept as patches:"
        yield from (f"    {path}.rej" for path in paths)
        yield "Apply them to the files that replaced these, and delete the patches; the template's"
        yield "CHANGELOG.md lists what moved. To restore a whole file:"
        yield f"    git checkout HEAD -- {paths[0]}"


def _listed(command: str, *arguments: str, check: bool = True) -> list[str]:
    """The paths that a command of Git lists."""
    return _git(command, "-z", *arguments, check=check).split("\0")[:-1]


def _git(*arguments: str, check: bool = True, env: Environment | None = None) -> str:
    return os.fsdecode(_bytes(*PLAIN, *arguments, check=check, env=env))


def _bytes(*arguments: str, check: bool = True, env: Environment | None = None) -> bytes:
    return subprocess.run(
        ["git", *arguments], capture_output=True, check=check, env={**os.environ, **(env or {})}
    ).stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["before", answers_file, given, *renamed]:
            before(
                Path(answers_file), json.loads(given), dict(each.split("=", 1) for each in renamed)
            )
        case ["after", answers_file, template]:
            after(Path(answers_file), template)
