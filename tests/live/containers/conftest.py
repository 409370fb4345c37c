"""The engine, the default service's image, and its running stack: made once, used by every test."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import generator

from . import images, service
from .engine import Engine, engine

# One machine is one client: the load test would be limited, as it should.
UNLIMITED = 'services: {api: {environment: {RATE_LIMIT: "off"}}}'


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
    (folder / "compose.override.yaml").write_text(UNLIMITED)
    (folder / ".env").write_text("SECRET_KEY=0f1e2d3c4b5a69788796a5b4c3d2e1f0\n")
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
