"""The cases of an update, each run for real and compared with the outcome that is documented.

``make tables`` writes the table in ``docs/updating.md`` from them. They update to this template
with the changes of ``next_version``.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.updates import edits
from tests.updates.world import Service, commit, git

Case = Callable[[Service], str]
Output = subprocess.CompletedProcess[str]

CASES: list["Happening"] = []


@dataclass(frozen=True)
class Happening:
    """A case: what happens, the documented outcome, and a function that returns the real one."""

    what: str
    comes_to: str
    try_it: Case


def case(what: str, comes_to: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES.append(Happening(what, comes_to, function))
        return function

    return add


def next_version(template: Path) -> None:
    """Change a template the way versions do: other lines, files gone, renamed and new."""
    app = template / "src" / "app"
    _replace(app / "main.py.jinja", "Nothing happens at import", "Really nothing happens at import")
    http = app / "platform" / "http"
    _replace(http / "pagination.py", '"""', '"""The pages. ')
    (app / "platform" / "base" / "cpus.py").unlink()
    (http / "hosts.py").rename(http / "host_names.py")
    (app / "news.py").write_text('"""News of the template."""\n')
    (template / "{{with_example}}/src/app/items/news.py").write_text('"""News."""\n')


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new, 1))


MINE = "\n# Mine, and nobody else's.\n"


def _commit_and_update(service: Service, *options: str, **given: str) -> Output:
    commit(service.folder)
    done = service.update(*options, **given)
    assert done.returncode == 0, done.stdout
    return done


@case("you and the template changed different lines of a file", "it has both changes")
def _apart(service: Service) -> str:
    service.write("src/app/main.py", service.read("src/app/main.py") + MINE)
    _commit_and_update(service)
    text = service.read("src/app/main.py")
    return "it has both changes" if MINE in text and "Really nothing" in text else text


@case(
    "you and the template changed the same lines",
    "the file has both, marked as a conflict; the update lists it, and exits with 0",
)
def _overlapping(service: Service) -> str:
    service.change("src/app/main.py", "Nothing happens at import", "My own words")
    done = _commit_and_update(service)
    text = service.read("src/app/main.py")
    assert "changed the same lines" in done.stdout
    assert "\n    src/app/main.py\n" in done.stdout
    assert "UU src/app/main.py" in service.status()
    assert all(part in text for part in ("<<<<<<<", "My own words", "Really nothing", ">>>>>>>"))
    return (
        "the file has both, marked as a conflict; the update lists it, and exits with "
        f"{done.returncode}"
    )


@case(
    "you and the template changed the same lines, and you update with `--conflict rej`",
    "the file has the template's lines, and `<file>.rej` has yours; the update lists it",
)
def _overlapping_and_rejected(service: Service) -> str:
    service.change("src/app/main.py", "Nothing happens at import", "My own words")
    done = _commit_and_update(service, "--conflict", "rej")
    assert "My own words" in service.read("src/app/main.py.rej")
    assert "Really nothing" in service.read("src/app/main.py")
    assert "changed the same lines" in done.stdout
    assert "\n    src/app/main.py.rej\n" in done.stdout
    return "the file has the template's lines, and `<file>.rej` has yours; the update lists it"


@case("the template deleted a file that you had not changed", "it is deleted")
def _deleted(service: Service) -> str:
    done = _commit_and_update(service)
    assert "removed files" not in done.stdout
    return "it is still there" if service.has("src/app/platform/base/cpus.py") else "it is deleted"


LOST = "your changes are kept as a patch, `<file>.rej`; the update lists it, and how to undo that"


def _kept_beside(service: Service, done: Output, path: str) -> str:
    changes = service.read(f"{path}.rej")
    assert "+# Mine, and nobody else's." in changes
    assert f"\n    {path}.rej\n" in done.stdout
    assert f"git checkout HEAD -- {path}" in done.stdout
    assert not service.has(path)
    git(service.folder, "checkout", "HEAD", "--", path)
    assert MINE in service.read(path)
    return LOST


@case("the template deleted a file that you had changed", LOST)
def _deleted_and_changed(service: Service) -> str:
    service.write(
        "src/app/platform/base/cpus.py", service.read("src/app/platform/base/cpus.py") + MINE
    )
    return _kept_beside(service, _commit_and_update(service), "src/app/platform/base/cpus.py")


@case(
    "the template renamed a file that you had changed",
    "your changes are merged into the renamed file; the update lists both names",
)
def _renamed_and_changed(service: Service) -> str:
    old, new = "src/app/platform/http/hosts.py", "src/app/platform/http/host_names.py"
    service.write(old, service.read(old) + MINE)
    done = _commit_and_update(service)
    assert f"\n    {old} -> {new}\n" in done.stdout
    assert not service.has(old)
    assert MINE in service.read(new)
    return "your changes are merged into the renamed file; the update lists both names"


@case(
    "you moved a file that the template changed",
    "the changes are merged into the file where you moved it; the update lists both names",
)
def _moved_and_changed(service: Service) -> str:
    old, new = "src/app/platform/http/pagination.py", "src/app/pages.py"
    service.write(new, service.read(old) + MINE)
    (service.folder / old).unlink()
    done = _commit_and_update(service)
    assert f"\n    {old} -> {new}\n" in done.stdout
    assert not service.has(old)
    assert MINE in service.read(new)
    assert '"""The pages. ' in service.read(new)
    return "the changes are merged into the file where you moved it; the update lists both names"


@case(
    "you replaced a file that the template changed by a link to another file of the service",
    "the changes are merged into that file; the update lists both names",
)
def _linked_and_changed(service: Service) -> str:
    old, new = "src/app/platform/http/pagination.py", "src/app/pages.py"
    service.write(new, service.read(old) + MINE)
    _link(service, old, "../../pages.py")
    done = _commit_and_update(service)
    assert f"\n    {old} -> {new}\n" in done.stdout
    assert (service.folder / old).is_symlink()
    assert MINE in service.read(new)
    assert '"""The pages. ' in service.read(new)
    return "the changes are merged into that file; the update lists both names"


@case(
    "you replaced a file that the template changed by a link to elsewhere",
    "its changes are kept as a patch, `<file>.rej`; the update lists it",
)
def _linked_to_elsewhere(service: Service) -> str:
    path = "src/app/platform/http/pagination.py"
    _link(service, path, "../../../../../pages.py")
    done = _commit_and_update(service)
    assert (service.folder / path).is_symlink()
    assert '+"""The pages. ' in service.read(f"{path}.rej")
    assert f"\n    {path}.rej\n" in done.stdout
    assert not service.folder.with_name("pages.py").exists()
    return "its changes are kept as a patch, `<file>.rej`; the update lists it"


def _link(service: Service, path: str, target: str) -> None:
    (service.folder / path).unlink()
    (service.folder / path).symlink_to(target)


@case("you changed a file of an option, and then chose another option", LOST)
def _answered_otherwise(service: Service) -> str:
    path = "src/app/platform/jobs/celery_worker.py"
    service.write(path, service.read(path) + MINE)
    return _kept_beside(service, _commit_and_update(service, queue="none"), path)


@case("you changed a file that both options have, and then chose the other", "it has your change")
def _both_have_it(service: Service) -> str:
    service.write("src/app/api.py", service.read("src/app/api.py") + MINE)
    done = _commit_and_update(service, queue="none", auth="none", tracing="none")
    assert "changed the same lines" not in done.stdout
    return "it has your change" if MINE in service.read("src/app/api.py") else "it does not"


@case("you deleted a file", "it stays deleted, even if the template changed it")
def _you_deleted(service: Service) -> str:
    (service.folder / "src/app/platform/http/pagination.py").unlink()
    _commit_and_update(service)
    assert not service.has("src/app/platform/http/pagination.py")
    return "it stays deleted, even if the template changed it"


@case("you deleted the example, and the template added a file to it", "it stays deleted")
def _example_deleted(service: Service) -> str:
    edits.delete_example(service)
    _commit_and_update(service)
    back = [path for path in service.tree() if "items" in path]
    assert "items" not in service.read("src/app/api.py")
    assert service.answers()["example"] is False
    return "it stays deleted" if not back else f"{back} came back"


@case("you deleted a folder, and the template added a file to it", "it stays deleted")
def _folder_deleted(service: Service) -> str:
    shutil.rmtree(service.folder / "src/app/items")
    _commit_and_update(service)
    return "it came back" if service.has("src/app/items") else "it stays deleted"


@case(
    "you and the template added a file of the same name",
    "the file has both, marked as a conflict; the update lists it",
)
def _both_added(service: Service) -> str:
    service.write("src/app/news.py", '"""My own news."""\n')
    done = _commit_and_update(service)
    text = service.read("src/app/news.py")
    assert "My own news" in text
    assert "News of the template" in text
    assert "\n    src/app/news.py\n" in done.stdout
    return "the file has both, marked as a conflict; the update lists it"


@case("you added lines below `Your own` comments, and then changed every answer", "they are kept")
def _own_places(service: Service) -> str:
    changes = edits.edit(service)
    given = {"queue": "none", "auth": "none", "tracing": "none", "ci": "gitlab", "example": "false"}
    done = _commit_and_update(service, **given)
    assert "changed the same lines" not in done.stdout, done.stdout
    return "\n".join(edits.lost(service, changes)) or "they are kept"


@case("you have a `uv.lock`", "it is not touched, even if the dependencies change")
def _lock(service: Service) -> str:
    service.write("uv.lock", "# mine\n")
    _commit_and_update(service, queue="none")
    assert service.read("uv.lock") == "# mine\n"
    return "it is not touched, even if the dependencies change"


@case("you have uncommitted changes", "the update is refused, and nothing is changed")
def _dirty(service: Service) -> str:
    service.write("src/app/main.py", service.read("src/app/main.py") + MINE)
    before = service.tree()
    done = service.update()
    assert done.returncode == 1
    assert "dirty" in done.stdout
    assert service.tree() == before
    return "the update is refused, and nothing is changed"


@case(
    "you have files that no commit has, and Git is configured not to show them",
    "the update is refused, and nothing is changed",
)
def _unknown(service: Service) -> str:
    git(service.folder, "config", "status.showUntrackedFiles", "no")
    service.write("src/app/news.py", '"""My own news."""\n')
    before = service.tree()
    done = service.update()
    assert done.returncode == 1
    assert "\n  src/app/news.py\n" in done.stdout
    assert service.tree() == before
    return "the update is refused, and nothing is changed"


@case("the template has nothing new", "nothing is changed")
def _nothing_new(service: Service) -> str:
    changed = _changed(service, "--vcs-ref", ":current:")
    edits.edit(service)
    return changed + _changed(service, "--vcs-ref", ":current:") or "nothing is changed"


@case("you update twice", "the second update changes nothing")
def _twice(service: Service) -> str:
    edited = service.copy(service.folder.with_name("edited"))
    edits.edit(edited)
    for each in (service, edited):
        _commit_and_update(each)
        commit(each.folder)
    return "".join(map(_changed, (service, edited))) or "the second update changes nothing"


def _changed(service: Service, *options: str) -> str:
    """Update a clean tree; return what came of it."""
    done = service.update(*options)
    assert done.returncode == 0, done.stdout
    return "\n".join(service.status())
