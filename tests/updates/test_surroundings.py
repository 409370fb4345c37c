"""An update is the same in every repository, with every setting of Git, from every folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import generator
from tests.updates import happens, world

PATH = "src/app/platform/base/cpus.py"  # which the next version removes
MINE = b"# Of the caf\xe9, and no UTF-8.\n"
SETTINGS = {
    "color.ui": "always",
    "color.diff": "always",
    "color.grep": "always",
    "core.autocrlf": "true",
    "core.quotePath": "true",
    "diff.external": "false",
    "diff.noprefix": "true",
    "grep.fullName": "true",
    "grep.patternType": "perl",
    "merge.conflictStyle": "zdiff3",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = generator.copy_of_template(tmp_path_factory.mktemp("surroundings") / "template")
    world.publish(template, "1.0.0")
    happens.next_version(template / "template")
    world.publish(template, "1.1.0")
    return template


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> world.Service:
    folder = tmp_path_factory.mktemp("made") / "service"
    return world.Service.make(template, folder, version="1.0.0")


@pytest.fixture
def service(made: world.Service, tmp_path: Path) -> world.Service:
    """A service whose next update removes a changed file, and changes lines that its owner did."""
    service = made.copy(tmp_path / "service")
    with (service.folder / PATH).open("ab") as file:
        file.write(MINE)
    service.change("src/app/main.py", "Nothing happens at import", "My own words")
    world.commit(service.folder)
    return service


def kept_and_listed(service: world.Service, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    assert b"+" + MINE in (service.folder / f"{PATH}.rej").read_bytes()
    _, _, report = done.stdout.partition("You need to review")
    listed = [line.strip() for line in report.splitlines() if line.startswith("    ")]
    assert listed == ["src/app/main.py", f"{PATH}.rej", f"git checkout HEAD -- {PATH}"]


def test_the_answers_can_be_in_another_file_beside_those_of_another_template(
    service: world.Service,
) -> None:
    foreign = "_commit: 3.0.0\n_src_path: elsewhere\nqueue: rabbit\n"
    world.git(service.folder, "mv", ".copier-answers.yml", ".copier-answers.slipway.yml")
    service.write(".copier-answers.yml", foreign)
    world.commit(service.folder)
    kept_and_listed(service, service.update("--answers-file", ".copier-answers.slipway.yml"))
    assert "_commit: 1.1.0" in service.read(".copier-answers.slipway.yml")
    assert service.read(".copier-answers.yml") == foreign


def test_the_path_of_the_template_can_be_relative(
    service: world.Service, template: Path, tmp_path: Path
) -> None:
    """It is relative to where Copier runs, which is not always the service's folder."""
    relative = os.path.relpath(template, tmp_path)
    service.change(".copier-answers.yml", f"_src_path: {template}", f"_src_path: {relative}")
    world.commit(service.folder)
    kept_and_listed(service, world.copier("update", service.folder.name, cwd=tmp_path, check=False))


def test_settings_of_git_change_nothing(
    service: world.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "QUICK", {})
    for name, value in SETTINGS.items():
        world.git(service.folder, "config", name, value)
    kept_and_listed(service, service.update())


def test_it_stays_in_its_folder_of_a_repository_with_others(
    service: world.Service, tmp_path: Path
) -> None:
    repository = service.within(tmp_path / "repository", "shop")
    within = world.Service(repository / "shop")
    kept_and_listed(within, within.update())
    changed = world.git(repository, "status", "--porcelain").splitlines()
    assert {line[3:].split("/")[0] for line in changed} == {"shop"}


def test_a_checkout_on_windows_has_the_line_ends_of_the_template(
    made: world.Service, tmp_path: Path
) -> None:
    """A shell script with others would not run in a container; an update would show every file."""
    clone = tmp_path / "clone"
    windows = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    world.git(tmp_path, *windows, "clone", "--quiet", str(made.folder), str(clone))
    assert world.Service(clone).tree() == made.tree()


@pytest.mark.parametrize("path", ["Makefile", "benchmarks", "docs"])
def test_a_file_a_folder_or_a_link_of_one_name_refuses_the_update(
    service: world.Service, path: str
) -> None:
    """Copier itself ends in a traceback, with half of the files updated."""
    if path == "Makefile":
        (service.folder / path).unlink()
        service.write("Makefile/targets.mk", "all:\n")
    elif path == "docs":
        (service.folder / path).rename(service.folder.with_name("docs"))
        (service.folder / path).symlink_to("../docs")
    else:
        shutil.rmtree(service.folder / path)
        service.write(path, "Mine.\n")
    world.commit(service.folder)
    done = service.update()
    assert done.returncode == 1, done.stdout
    assert f"Nothing was written: {path} in" in done.stdout
    assert service.status() == []


def test_a_service_whose_version_is_gone_is_copied_anew(service: world.Service) -> None:
    """The way out that docs/updating.md describes; Copier itself ends in a traceback."""
    service.change(".copier-answers.yml", "_commit: 1.0.0", "_commit: 0.9.0")
    service.write("src/app/mine.py", '"""Mine."""\n')
    world.commit(service.folder)
    before = service.tree()
    assert service.update().returncode != 0
    assert service.tree() == before
    again = ("recopy", "--skip-answered", "--overwrite")
    done = world.copier(*again, cwd=service.folder, check=False)
    assert done.returncode == 0, done.stdout
    assert service.answers()["_commit"] == "1.1.0"
    assert service.read("src/app/mine.py") == '"""Mine."""\n'
    assert service.update().returncode == 1  # its changes are to be committed first
