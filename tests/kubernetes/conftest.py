"""Services for Kubernetes with all sorts of answers, and what Kustomize makes of their overlays."""

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import generator, matrix
from tests.kubernetes import tools

IMAGE = "registry.example.com/team/service@sha256:" + "0123456789abcdef" * 4
NAME = IMAGE.partition("@")[0]
DIGEST = IMAGE.partition("@")[2]
QUESTIONS = ("queue", "tracing", "auth", "example")

Json = dict[str, Any]


def answers() -> list[dict[str, Any]]:
    """Return rows in which each choice that changes what a service needs stands at least once."""
    values = {name: found for name, found in matrix.choices().items() if name in QUESTIONS}
    rows = max(map(len, values.values()))
    columns = {name: list(islice(cycle(found), rows)) for name, found in values.items()}
    return [{name: columns[name][row] for name in columns} for row in range(rows)]


ROWS = {matrix.named(row): row for row in answers()}


@pytest.fixture(scope="session")
def services(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A rendered service for each row of answers, by the row's name."""
    root = tmp_path_factory.mktemp("kubernetes")
    return {
        name: generator.render(template, root / name / "service", deploy="kubernetes", **row)
        for name, row in ROWS.items()
    }


@pytest.fixture(scope="session")
def built(services: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each overlay of each service becomes, one file each.

    With the image's digest, as a release has it, and production also with secrets from a vault.
    """
    to = tmp_path_factory.mktemp("built")
    for name, service in services.items():
        folder = service / "deploy/kubernetes"
        for base, components in _variants(folder):
            scratch = folder / "release.test"
            scratch.mkdir()
            itself = yaml.safe_load((folder / base / "kustomization.yaml").read_text())
            kustomization = {
                "namespace": itself["namespace"],
                "resources": [f"../{base}"],
                "components": [f"../components/{each}" for each in components],
                "images": [{"name": "service", "newName": NAME, "digest": DIGEST}],
            }
            (scratch / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            file = "-".join([name, *base.split("/"), *components])
            (to / f"{file}.yaml").write_text(tools.kustomize(scratch))
            (scratch / "kustomization.yaml").unlink()
            scratch.rmdir()
    return to


def _variants(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for overlay in sorted((folder / "overlays").iterdir()):
        yield f"overlays/{overlay.name}", []
        yield f"setup/{overlay.name}", []
    yield "overlays/production", ["external-secrets", "outgoing-https"]


def objects(text: str) -> list[Json]:
    return [each for each in yaml.safe_load_all(text) if each]
