"""The engine, the default service's image, and its running stack: made once, used by every test."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests import generator

from . import images, service
from .engine import Engine, engine

HERE = Path(__file__).parent
PASSWORD = "correct horse battery staple 47"


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway-containers"
    with engine(cache, images.PUBLIC) as running:
        images.provide(running)
        yield running


@pytest.fixture(scope="session")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default service, locked, with secrets of every kind lying about."""
    folder = tmp_path_factory.mktemp("containers") / "my-service"
    generator.render(template, folder)
    subprocess.run(["uv", "lock", "--quiet"], cwd=folder, check=True)
    subprocess.run(["sh", "compose/secrets.sh"], cwd=folder, check=True)
    shutil.copy(HERE / "override.yaml", folder / "compose.override.yaml")
    shutil.copy(HERE / "collector.py", folder)
    (folder / ".env").write_text(f"SECRET_KEY={secrets.token_hex(32)}\n")
    return folder


@pytest.fixture(scope="session")
def image(docker: Engine, project: Path) -> str:
    tag = "slipway-test:local"
    arguments = [f"--build-arg={name}={value}" for name, value in images.LABELS.items()]
    images.build(docker, project, tag, *arguments)
    return tag


@pytest.fixture(scope="session")
def stack(docker: Engine, project: Path, image: str) -> Iterator[service.Stack]:
    with service.running(service.Stack(docker, project, image)) as running:
        yield running


@pytest.fixture(scope="session")
def token(stack: service.Stack) -> str:
    """A registered user's access token."""
    email = f"{uuid4()}@example.com"
    account = {"email": email, "password": PASSWORD}
    registered = stack.ask("POST", "/api/v1/auth/register", account)
    assert registered.status == 201, registered.body
    form = {"username": email, "password": PASSWORD}
    login = stack.ask("POST", "/api/v1/auth/login", form=form)
    assert login.status == 200, login.body
    return str(login.body["access_token"])
