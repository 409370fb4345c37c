"""A service's CI finds out that there is a newer template, and brings it in as a pull request."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import generator
from tests.updates import happens, world


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = generator.copy_of_template(tmp_path_factory.mktemp("knowing") / "template")
    world.publish(template, "1.0.0")
    return template


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> world.Service:
    """A service from the version before the newest."""
    folder = tmp_path_factory.mktemp("service")
    return world.Service.make(template, folder / "service", version="1.0.0")


def step(service: world.Service, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the shell of a step of the workflow."""
    workflow = yaml.safe_load(service.read(".github/workflows/update.yml"))
    job = workflow["jobs"]["update"]
    shell = next(step["run"] for step in job["steps"] if step.get("name", "").startswith(name))
    return subprocess.run(
        ["bash", "-e", "-c", shell],
        cwd=service.folder,
        env={**os.environ, **world.ENVIRONMENT, **job["env"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def branches(folder: Path) -> str:
    return world.git(folder, "branch", "--format", "%(refname:short)")


def test_a_service_that_is_up_to_date_is_left_alone(service: world.Service, tmp_path: Path) -> None:
    service = service.copy(tmp_path / "service")
    done = step(service, "Apply a newer version")
    assert done.returncode == 0, done.stdout
    assert "no newer version" in done.stdout
    assert "template-update" not in branches(service.folder)
    done = step(service, "Open a pull request", GH_TOKEN="")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def outdated(template: Path, service: world.Service, tmp_path: Path) -> world.Service:
    """The service, with a line that collides with the newer version, and a place to push to."""
    newer = tmp_path / "newer"
    world.git(tmp_path, "clone", "--quiet", str(template), str(newer))
    happens.next_version(newer / "template")
    world.publish(newer, "1.1.0")
    service = service.copy(tmp_path / "service")
    world.git(tmp_path, "init", "--quiet", "--bare", "origin")
    world.git(service.folder, "remote", "add", "origin", str(tmp_path / "origin"))
    service.change(".copier-answers.yml", str(template), str(newer))
    service.change("src/app/main.py", "Nothing happens at import", "My own words")
    world.commit(service.folder)
    return service


HOW_PEOPLE_COMMIT = (
    ("-m", "Resolve the conflicts"),
    ("--amend", "--no-edit", "--date", "2026-01-01T00:00:00Z"),
)


def test_a_newer_template_becomes_a_pull_request_that_lists_what_collides(
    outdated: world.Service, tmp_path: Path
) -> None:
    """What people push to its branch stays there."""
    done = step(outdated, "Apply a newer version")
    assert done.returncode == 0, done.stdout
    message = world.git(outdated.folder, "log", "-1", "--format=%B", "template-update")
    assert message.startswith("Update from the template\n")
    assert "changed the same lines" in message
    assert "src/app/main.py" in message

    done = step(outdated, "Open a pull request", GH_TOKEN="")
    assert done.stdout.startswith("::warning::The template has a newer version.")
    calls = _gh(tmp_path)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = step(outdated, "Open a pull request", GH_TOKEN="token", PATH=path)
    assert done.returncode == 0, done.stdout
    assert calls.read_text().splitlines()[-1] == "pr create --fill --head template-update"
    origin = Path(world.git(outdated.folder, "remote", "get-url", "origin").strip())
    assert "template-update" in branches(origin)

    def pushed_again() -> str:
        """Push what an update a week later would make; return the author of what is there then."""
        tip = world.git(outdated.folder, "log", "-1", "--format=%T %P", "template-update").split()
        message = ["-m", "Update from the template"]
        later = world.git(outdated.folder, "commit-tree", tip[0], "-p", tip[1], *message).strip()
        world.git(outdated.folder, "branch", "--force", "next", later)
        world.git(outdated.folder, "switch", "--quiet", "--force-create", "template-update", "next")
        done = step(outdated, "Open a pull request", GH_TOKEN="token", PATH=path)
        assert done.returncode == 0, done.stdout
        assert ("Somebody has worked on" in done.stdout) == (branch_tip(origin) != later)
        return world.git(origin, "log", "-1", "--format=%an", "template-update").strip()

    assert pushed_again() == "test@example.com"
    for number, how in enumerate(HOW_PEOPLE_COMMIT):
        person = tmp_path / f"person {number}"
        world.git(
            tmp_path, "clone", "--quiet", "--branch", "template-update", str(origin), str(person)
        )
        (person / "resolved.txt").write_text("By hand.\n")
        world.git(person, "add", "--all")
        world.git(person, "commit", "--quiet", "--author", "Ada <ada@example.com>", *how)
        world.git(person, "push", "--quiet", "--force")
        assert pushed_again() == "Ada"
        assert "resolved.txt" in world.git(origin, "ls-tree", "--name-only", "template-update")
        world.git(origin, "branch", "--delete", "--force", "template-update")
        assert pushed_again() == "test@example.com"


def branch_tip(folder: Path) -> str:
    return world.git(folder, "rev-parse", "template-update").strip()


def _gh(folder: Path) -> Path:
    """Put a ``gh`` that writes down how it was called, and knows of no pull request, there."""
    program = folder / "gh"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"open({str(folder / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "print(0)\n"
    )
    program.chmod(0o755)
    return folder / "calls"


def test_the_commit_stays_in_the_folder_of_the_service(
    outdated: world.Service, tmp_path: Path
) -> None:
    """The repository has other folders, and the service's answers a file of their own."""
    answers = ".copier-answers.slipway.yml"
    world.git(outdated.folder, "mv", ".copier-answers.yml", answers)
    outdated.change(".ci/update.sh", "'.copier-answers.yml'", f"'{answers}'")
    repository = outdated.within(tmp_path / "repository", "shop")
    (repository / "notes.txt").write_text("Not finished.\n")
    (repository / "ideas.txt").write_text("None yet.\n")
    script = repository / "shop" / ".ci" / "update.sh"
    done = subprocess.run(
        ["sh", str(script)], cwd=repository, env={**os.environ, **world.ENVIRONMENT}, check=False
    )
    assert done.returncode == 0
    changed = world.git(repository, "show", "--name-only", "--format=", "template-update")
    assert {path.split("/")[0] for path in changed.splitlines()} == {"shop"}
    left = world.git(repository, "status", "--porcelain").splitlines()
    assert left == [" M notes.txt", "?? ideas.txt"]
