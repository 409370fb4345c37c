"""Stand-ins, under their own names, for the public images that a service asks for.

Only for an engine of ours that can't reach an image registry. Python and Prometheus come from
Debian; Postgres and Valkey from the wheels that the service itself develops with. They do as much
of what the official images do as the service's ``compose.yaml`` relies on.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import apt
from .engine import Engine

HERE = Path(__file__).parent / "stand_ins"
LABELS = {"VERSION": "1.2.3", "REVISION": "0123abc", "CREATED": "2026-01-02T03:04:05Z"}
PYTHON_SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PYTHON = "python:3.13-slim"
STAND_INS = {
    "postgres:18": "postgres",
    "valkey/valkey:9": "valkey",
    "prom/prometheus:v3.12.0": "prometheus",
    "prom/alertmanager:v0.34.1": "alertmanager",
    "caddy:2": "caddy",
    "axllent/mailpit:v1.27.0": "mailpit",
    "mcr.microsoft.com/devcontainers/python:3.13": "devcontainer",
    "prom/blackbox-exporter:v0.28.0": "blackbox",
    "prom/node-exporter:v1.12.0": "node",
}
PACKAGES = {  # what a stand-in takes from Debian
    "prometheus": ("trixie", ["prometheus", "promtool"]),
    "alertmanager": ("trixie", ["prometheus-alertmanager"]),
    "caddy": ("bookworm", ["caddy"]),
    "devcontainer": ("trixie", ["git"]),
    "blackbox": ("trixie", ["prometheus-blackbox-exporter"]),
    "node": ("trixie", ["prometheus-node-exporter"]),
}
PUBLIC = [PYTHON, *STAND_INS]


def provide(engine: Engine) -> None:
    """Make every image of ``PUBLIC`` that an engine of ours lacks, or has an old stand-in for."""
    if not engine.own:
        return
    if not engine.has(PYTHON):
        _python(engine, PYTHON)
    for image, folder in STAND_INS.items():
        label = f"stand-in={_digest(folder)}"
        if not engine.docker("image", "ls", "--quiet", "--filter", f"label={label}", image):
            _stand_in(engine, folder, image, label)


def _digest(folder: str) -> str:
    files = sorted(path for path in (HERE / folder).rglob("*") if path.is_file())
    content = b"".join(path.read_bytes() for path in files) + repr(PACKAGES.get(folder)).encode()
    return hashlib.sha256(content).hexdigest()


def _stand_in(engine: Engine, folder: str, image: str, label: str) -> None:
    with tempfile.TemporaryDirectory(dir=engine.cache) as context:
        shutil.copytree(HERE / folder, context, dirs_exist_ok=True)
        if folder in PACKAGES:
            apt.unpack(*PACKAGES[folder], Path(context))
        build(engine, Path(context), image, "--label", label)


def build(engine: Engine, folder: Path, tag: str, *arguments: str) -> None:
    """Build ``folder`` as ``tag``, with what this machine needs to reach its Python index."""
    with tempfile.TemporaryDirectory() as secrets:
        options = list(arguments)
        for name, path in _access(Path(secrets)).items():
            options += ["--secret", f"id={name},src={path}"]
        if engine.own:
            options += ["--network", "host"]
        engine.docker("buildx", "build", "--tag", tag, *options, folder)


def mounts(folder: Path) -> list[str]:
    """Return the options with which a container reaches the index that this machine uses."""
    places = {"ca": CERTIFICATES, "pip": "/etc/pip.conf", "uv": "/etc/uv/uv.toml"}
    return [f"--volume={path}:{places[name]}:ro" for name, path in _access(folder).items()]


def _access(folder: Path) -> dict[str, Path]:
    """Return the files for it by name: certificates and, if the machine has one, its own index."""
    found = {"ca": CERTIFICATES} if CERTIFICATES.exists() else {}
    if index := _index():
        (folder / "pip.conf").write_text(f"[global]\nindex-url = {index}\n")
        (folder / "uv.toml").write_text(f'index-url = "{index}"\n')
        found |= {"pip": folder / "pip.conf", "uv": folder / "uv.toml"}
    return found


def _index() -> str:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if index := os.environ.get(name):
            return index
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _python(engine: Engine, image: str) -> None:
    """Import a minimal Debian whose Python is the one that ``image`` names."""
    version = image.removeprefix("python:").removesuffix("-slim")
    # Not below /tmp, which may be mounted without devices.
    with tempfile.TemporaryDirectory(dir=engine.cache) as folder:
        root = Path(folder, "root")
        apt.bootstrap(PYTHON_SUITES[version], root)
        _resemble(root, version)
        archive = Path(folder, "root.tar")
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        engine.docker("import", "--change", 'CMD ["python3"]', archive, image)


def _resemble(root: Path, version: str) -> None:
    """Give the tree the names of the official image and drop what that one doesn't carry."""
    for name, target in {"python": "python3", "python3": "python3", "pip": "pip3"}.items():
        (root / "usr/local/bin" / name).symlink_to(f"/usr/bin/{target}")
    (root / f"usr/lib/python{version}/EXTERNALLY-MANAGED").unlink()
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
