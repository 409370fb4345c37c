"""The default service passes its fast tests on every Python that we promise."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests import generator, suite
from tests.live.containers import apt
from tests.live.containers.images import PYTHON_SUITES

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TESTS = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" || exit 1
exec chroot "$1" sh -c 'cd /service && uv sync --quiet && exec uv run pytest -q'
"""


def interpreter(version: str) -> str | None:
    """An installed Python of ``version``: one that uv finds, or one of pyenv's."""
    find = [*suite.UV, "python", "find", "--no-project", version]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return found.stdout.strip()
    pyenv = Path.home() / ".pyenv" / "versions"
    return next(map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), None)


def run_in_debian(release: str, root: Path, service: Path) -> None:
    """Run the fast tests of ``service`` in a Debian of that release, with its own Python."""
    apt.bootstrap(release, root)
    shutil.copytree(service, root / "service", symlinks=True)
    shutil.copy(find_uv_bin(), root / "usr/local/bin/uv")
    for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(Path("/", file), root / file)
    environment = {
        **{name: os.environ[name] for name in ("UV_EXCLUDE_NEWER",) if name in os.environ},
        **{name: value for name, value in os.environ.items() if name.startswith("SSL_CERT")},
        "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "UV_PYTHON": "/usr/bin/python3",
    }
    # The mounts vanish with their namespace.
    command = ["unshare", "--mount", "sh", "-c", TESTS, "sh", str(root)]
    subprocess.run(command, env=environment, check=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_service_passes_its_fast_tests(
    template: Path, tmp_path: Path, version: str
) -> None:
    service = generator.render(template, tmp_path / "service")
    if python := interpreter(version):
        suite.run(service, UV_PYTHON=python)
    elif version in PYTHON_SUITES and os.geteuid() == 0 and shutil.which("apt-get"):
        run_in_debian(PYTHON_SUITES[version], tmp_path / "debian", service)
    else:
        pytest.skip(f"no Python {version} on this machine")
