"""The image of the default service: small, without secrets, and unable to change itself."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .engine import Engine
from .service import LABELS

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
    secrets = [path.read_bytes() for path in (project / ".secrets").glob("[!.]*")]
    secrets.append((project / ".env").read_bytes().split(b"=")[1].strip())
    archive = tmp_path / "image.tar"
    docker.docker("save", "--output", archive, image)
    content = archive.read_bytes()
    assert not [secret for secret in secrets if secret in content]
    local = re.compile(r"(^|/)(\.env|\.secrets|\.git|\.local|tests|compose\.yaml|uv\.lock)(/|$)")
    assert not [name for name in _names(archive) if name.startswith("app/") and local.search(name)]


def _names(archive: Path) -> list[str]:
    """Return the path of every file in every layer of a saved image."""
    with tarfile.open(archive) as image:
        layers = [image.extractfile(member) for member in image if member.name.endswith(".tar")]
        return [
            name for layer in layers if layer for name in tarfile.open(fileobj=layer).getnames()
        ]


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
