"""The default service passes its fast tests on every Python that we promise."""

import subprocess
from pathlib import Path

import pytest

from tests import generator, suite

VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def interpreter(version: str) -> str | None:
    """An installed Python of ``version``: one that uv finds, or one of pyenv's."""
    find = [*suite.UV, "python", "find", "--no-project", version]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return found.stdout.strip()
    pyenv = Path.home() / ".pyenv" / "versions"
    return next(map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_service_passes_its_fast_tests(
    template: Path, tmp_path: Path, version: str
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    service = generator.render(template, tmp_path / "service")
    suite.run(service, UV_PYTHON=python)
