"""Debian packages for a machine without a container engine, from the mirror that apt uses."""

import os
import shutil
import subprocess
from pathlib import Path

from tests import toolbox

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SCRIPTS = Path("/usr/share/debootstrap/scripts")


def mirror() -> str:
    """Return the URL of the Debian mirror that this machine's apt is configured with."""
    for refresh in (False, True):
        if refresh:
            _apt("update", "-qq")
        sites = _apt(
            *("indextargets", "--format", "$(SITE)"),
            *("Created-By: Packages", "Origin: Debian", "Label: Debian"),
        ).split()
        if sites:
            return sites[0]
    raise RuntimeError("apt knows no Debian mirror here; `apt-get update` says why.")


def install(*packages: str) -> None:
    """Install packages of this machine's own release; raises when apt can't."""
    _apt("update", "-qq")
    _apt("install", "-y", "-qq", "--no-install-recommends", *packages)


def bootstrap(suite: str, root: Path) -> None:
    """Make ``root`` a minimal Debian with its Python; raises when debootstrap can't."""
    if not shutil.which("debootstrap"):
        install("debootstrap")
    packages = "ca-certificates,python3,python3-venv,python3-pip"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root)]
    command.append(mirror())
    if not (SCRIPTS / suite).exists():  # a debootstrap that is older than the suite
        command.append(str(SCRIPTS / "sid"))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"debootstrap of {suite} failed:\n{done.stdout[-3000:]}")


def unpack(suite: str, packages: list[str], into: Path) -> None:
    """Fetch packages of another Debian release and unpack them below ``into``, uninstalled."""
    for folder in ("parts", "lists/partial", "archives/partial"):
        (into / folder).mkdir(parents=True, exist_ok=True)
    source = f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n"
    (into / "parts" / "suite.list").write_text(source)
    config = into / "apt.conf"
    config.write_text(
        f'Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "{into}/parts";\n'
        f'Dir::State::Lists "{into}/lists"; Dir::Cache "{into}"; APT::Sandbox::User "root";\n'
    )
    _apt("update", "-qq", config=config)
    named = [f"{package}/{suite}" for package in packages]  # whatever is installed here
    _apt("download", "-qq", *named, config=config, folder=into)
    for package in into.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, into], check=True)


def _apt(*arguments: str, config: Path | None = None, folder: Path | None = None) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    if config:
        environment["APT_CONFIG"] = str(config)
    with toolbox.lock(toolbox.BUILD / "apt.lock"):  # apt gives up when another one is at work
        done = subprocess.run(
            ["apt-get", *arguments], env=environment, cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout
