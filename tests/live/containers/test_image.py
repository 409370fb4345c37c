"""The image of the default service: small, without secrets, and unable to change itself."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .engine import Engine
from .images import LABELS

LIMIT = 300_000_000  # bytes
ALONE = ("run", "--rm", "--network", "none")


@pytest.fixture(scope="module")
def facts(docker: Engine, image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker.docker("image", "inspect", image))
    return found[0]


def test_is_small(facts: dict[str, Any]) -> None:
    assert facts["Size"] < LIMIT


def test_says_what_it_was_made_from(facts: dict[str, Any]) -> None:
    labels = facts["Config"]["Labels"]
    assert {name: labels[f"org.opencontainers.image.{name.lower()}"] for name in LABELS} == LABELS


def test_holds_no_secret_and_no_local_file(
    docker: Engine, image: str, project: Path, tmp_path: Path
) -> None:
    there = (path.read_bytes() for path in (project / ".secrets").glob("[!.]*"))
    secrets = [secret for secret in there if secret]  # some are empty until others give them
    secrets.append((project / ".env").read_bytes().split(b"=")[1].strip())
    archive = tmp_path / "image.tar"
    docker.docker("save", "--output", archive, image)
    found = set()
    for path, content in _files(archive):
        assert not any(secret in content for secret in secrets), path
        found.add(path.split("/")[1] if path.startswith("app/") else "")
    assert found == {"", ".venv", "gunicorn.conf.py", "migrations", "pyproject.toml"}


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file of each layer of a saved image, also what a later layer hides."""
    with tarfile.open(archive) as image:
        for member in filter(tarfile.TarInfo.isreg, image):
            blob = image.extractfile(member)
            with suppress(tarfile.ReadError), tarfile.open(fileobj=blob) as layer:
                for file in layer:
                    if content := layer.extractfile(file) if file.isreg() else None:
                        yield file.name, content.read()


def test_runs_as_a_user_who_can_not_change_the_code(docker: Engine, image: str) -> None:
    probe = (
        "import os, app; print(os.getuid(), os.getgid(), [path for path in"
        " ('/app', '/app/migrations', '/app/.venv', app.__file__) if os.access(path, os.W_OK)])"
    )
    assert docker.docker(*ALONE, image, "python", "-c", probe) == "10001 10001 []"


def test_starts_nothing_without_its_settings(docker: Engine, image: str) -> None:
    with pytest.raises(RuntimeError, match=r"exited with 2(.|\n)*SECRET_KEY(.|\n)*DATABASE_URL"):
        docker.docker(*ALONE, image)


def test_needs_no_development_tools(docker: Engine, image: str) -> None:
    probe = (
        "from importlib.util import find_spec; print(*filter(find_spec, ['pytest', 'mypy', 'uv']))"
    )
    assert docker.docker(*ALONE, image, "python", "-c", probe) == ""


def test_code_is_compiled(docker: Engine, image: str) -> None:
    probe = (
        "import app.main, fastapi, os;"
        "print(*(os.path.exists(m.__cached__) for m in (app.main, fastapi)))"
    )
    assert docker.docker(*ALONE, image, "python", "-c", probe) == "True True"
