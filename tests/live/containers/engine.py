"""A container engine for the tests: the machine's own, or one that lives as long as the tests.

Ours keeps its images and build cache in a folder of the user's cache, so that a second run is
quick, and listens on a socket there; published ports are bound to the loopback interface.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import apt

CGROUPS = "/sys/fs/cgroup"
PLUGINS = {"docker-compose", "docker-buildx"}
PLUGIN_SUITE = "trixie"  # Debian 12 has neither plugin, and its libc is new enough for these.
START_SECONDS = 30
LOCK_SECONDS = 900


@dataclass(frozen=True)
class Engine:
    """A running engine; ``own`` says that it is ours, so that its images are ours to make."""

    own: bool
    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str | Path, **options: Any) -> str:
        """Run ``docker`` and return what it printed; raises ``RuntimeError`` with its errors."""
        options = {"capture_output": True, "text": True, "timeout": 600, **options}
        options["env"] = {**os.environ, **self.environment, **options.get("env", {})}
        done = subprocess.run(["docker", *map(str, arguments)], **options)
        if done.returncode:
            command = f"docker {' '.join(map(str, arguments))} exited with {done.returncode}"
            raise RuntimeError(f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return str(done.stdout).strip()

    def has(self, image: str) -> bool:
        """Tell whether the engine holds ``image``."""
        return bool(self.docker("image", "ls", "--quiet", image))


@contextmanager
def engine(cache: Path, images: Sequence[str]) -> Iterator[Engine]:
    """Yield the machine's engine when it can get ``images`` and has the plugins, else our own."""
    if _serves(theirs := Engine(False, cache), images):
        yield theirs
        return
    _install()
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache) as lock, _daemon(cache, lock) as ours:
        yield ours


def _serves(machine: Engine, images: Sequence[str]) -> bool:
    if not shutil.which("docker"):
        return False
    try:
        for command in ("info", "compose version", "buildx version"):
            machine.docker(*command.split(), timeout=20)
        for image in images:
            if not machine.has(image):
                machine.docker("pull", "--quiet", image)
    except (RuntimeError, subprocess.TimeoutExpired):
        return False
    return True


def _install() -> None:
    """Install what is missing, and mount the control groups where no init system has done it."""
    commands = {"docker": "docker.io", "dockerd": "docker.io"}
    mounted = os.path.ismount(CGROUPS)
    if not mounted:
        commands["cgroupfs-mount"] = "cgroupfs-mount"
    if missing := {package for name, package in commands.items() if not shutil.which(name)}:
        if os.geteuid():
            raise RuntimeError("No container engine answers here, and only root can install one.")
        apt.install(*sorted(missing))
    if not mounted:
        subprocess.run(["cgroupfs-mount"], check=True)


def _plugins(cache: Path) -> Path:
    """Return a Docker configuration folder whose ``cli-plugins`` has compose and buildx."""
    config = cache / "config"
    if not (plugins := config / "cli-plugins").is_dir():
        with_packages = cache / "packages"
        apt.unpack(PLUGIN_SUITE, sorted(PLUGINS), with_packages)
        shutil.copytree(with_packages / "usr/libexec/docker/cli-plugins", plugins)
        shutil.rmtree(with_packages)
    return config


@contextmanager
def _lock(cache: Path) -> Iterator[int]:
    """Wait until no other run uses the folder; the daemon inherits the lock, so it outlives us."""
    lock = os.open(cache / "lock", os.O_CREAT | os.O_RDWR)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Another run has used {cache} for too long.") from None
                time.sleep(1)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _daemon(cache: Path, lock: int) -> Iterator[Engine]:
    socket = cache / "docker.sock"
    command = ["dockerd", f"--data-root={cache}/data", f"--exec-root={cache}/exec"]
    command += [f"--pidfile={cache}/dockerd.pid", f"--host=unix://{socket}"]
    command += ["--ip=127.0.0.1", "--bridge=none"]
    config = _plugins(cache)
    with (cache / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            command, stdout=log, stderr=log, pass_fds=[lock], preexec_fn=_die_with_parent
        )
    variables = {"DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(config)}
    ours = Engine(True, cache, variables)
    try:
        _wait_until_ready(daemon, ours, cache / "dockerd.log")
        _sweep(ours)
        yield ours
    finally:
        daemon.terminate()
        daemon.wait(60)


def _die_with_parent() -> None:
    """Have Linux stop the daemon when the tests are killed; in a session of its own for Ctrl-C."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _sweep(ours: Engine) -> None:
    """Remove what a killed run has left, and what would make the cache grow without end."""
    if left := ours.docker("ps", "--all", "--quiet").split():
        ours.docker("rm", "--force", "--volumes", *left)
    for kind in ("volume", "network", "image"):
        ours.docker(kind, "prune", "--force")
    ours.docker("builder", "prune", "--force", "--keep-storage", "5GB")


def _wait_until_ready(daemon: subprocess.Popen[bytes], ours: Engine, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        try:
            ours.docker("version", timeout=5)
            return
        except (RuntimeError, subprocess.TimeoutExpired):
            time.sleep(0.2)
    raise RuntimeError(f"dockerd did not start:\n{log.read_text()[-3000:]}")
