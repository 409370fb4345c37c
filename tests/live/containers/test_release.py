"""A release on one machine: nobody notices it, a bad one is taken back, and so is a good one."""

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from .engine import Engine
from .service import free_port, until

# The proxy makes its own certificate for this name, which nobody has to trust here.
INSECURE = ssl._create_unverified_context()


@dataclass(frozen=True)
class Machine:
    """A machine with the service's repository, as docs/deploy.md sets it up."""

    engine: Engine
    folder: Path
    port: int

    def release(self, image: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "deploy/release.sh", image],
            cwd=self.folder,
            env={
                **os.environ,
                **self.engine.environment,
                "SMOKE_URL": f"https://localhost:{self.port}",
                "CURL_HOME": str(self.folder.parent),  # for the certificate, in its .curlrc
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    def serving(self) -> str:
        """Return the image of the API's container."""
        return self.engine.docker(
            *["compose", "ps", "--format", "{{.Image}}", "api"], cwd=self.folder
        )

    def ask(self, path: str) -> int:
        """Return the status of the answer through the proxy; 0 when there is none."""
        url = f"https://localhost:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=70, context=INSECURE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture(scope="module")
def machine(
    docker: Engine, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine") / "service"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".env", ".secrets"))
    (folder.parent / ".curlrc").write_text("insecure\n")
    machine = Machine(docker, folder, free_port())
    (folder / "test.yaml").write_text(
        f'services:\n  proxy: {{ports: !override ["127.0.0.1:{machine.port}:443"]}}\n'
        f'  api: {{ports: !override [], environment: {{RATE_LIMIT: "off"}}}}\n'
    )
    (folder / ".env").write_text(
        "COMPOSE_PROJECT_NAME=slipway-release\nDOMAIN=localhost\n"
        "COMPOSE_FILE=compose.yaml:compose.production.yaml:test.yaml\n"
    )
    yield machine
    docker.docker("compose", "down", "--volumes", "--timeout", "5", cwd=folder)


@pytest.fixture(scope="module")
def images(docker: Engine, image: str) -> dict[str, str]:
    """Two good images, one that does not start, and one whose migrations fail."""
    made = {name: f"slipway-release:{name}" for name in ("one", "two", "dead", "unmigrated")}
    docker.docker("tag", image, made["one"])
    docker.docker("tag", image, made["two"])
    container = docker.docker("create", image)
    docker.docker("commit", "--change", 'CMD ["false"]', container, made["dead"])
    docker.docker("commit", "--change", 'ENTRYPOINT ["false"]', container, made["unmigrated"])
    docker.docker("rm", container)
    return made


def test_from_nothing_to_deployed(machine: Machine, images: dict[str, str]) -> None:
    released = machine.release(images["one"])
    assert released.returncode == 0, released.stderr
    assert machine.ask("/health/ready") == 200
    assert machine.ask("/health/live") == 200
    assert machine.ask("/metrics") == 404
    assert f"https://localhost:{machine.port} is ready" in released.stderr


def test_prometheus_watches_the_certificate_of_the_domain(machine: Machine) -> None:
    port = free_port()
    variables = {"PROMETHEUS_PORT": str(port)}
    prometheus = ("up", "--wait", "--no-deps", "prometheus")
    machine.engine.docker("compose", *prometheus, cwd=machine.folder, env=variables)
    url = f"http://127.0.0.1:{port}/api/v1/targets?scrapePool=certificate"
    with urllib.request.urlopen(url, timeout=5) as response:
        [target] = json.load(response)["data"]["activeTargets"]
    assert target["labels"]["instance"] == "https://localhost/health/live"
    machine.engine.docker("compose", "rm", "-fs", "prometheus", cwd=machine.folder)


def test_prometheus_can_see_how_full_the_disks_of_the_machine_are(machine: Machine) -> None:
    machine.engine.docker("compose", "up", "--detach", "node", cwd=machine.folder)
    rule = (machine.folder / "compose/rules/disk.yml").read_text()
    disk = re.search(r"node_filesystem_avail_bytes\{fstype=~\"(.+?)\"\}", rule)
    assert disk
    script = (
        "import urllib.request as r; print(r.urlopen('http://node:9100/metrics').read().decode())"
    )

    def ask() -> str:
        with suppress(RuntimeError):
            read = ("exec", "-T", "api", "python", "-c", script)
            return machine.engine.docker("compose", *read, cwd=machine.folder)
        return ""

    free = re.findall(r'node_filesystem_avail_bytes\{.*fstype="(\w+)".*\} (\S+)', until(ask, 30))
    assert [float(count) for fstype, count in free if re.fullmatch(disk[1], fstype)]
    machine.engine.docker("compose", "rm", "-fs", "node", cwd=machine.folder)


def test_nobody_notices_a_release(machine: Machine, images: dict[str, str]) -> None:
    answers: Counter[int] = Counter()
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answers[machine.ask("/health/live")] += 1
            time.sleep(0.02)

    caller = threading.Thread(target=call)
    caller.start()
    released = machine.release(images["two"])
    over.set()
    caller.join()
    assert released.returncode == 0, released.stderr
    assert machine.serving() == images["two"]
    assert answers.total() > 20
    assert answers.keys() == {200}, answers


@pytest.mark.parametrize("bad", ["dead", "unmigrated"])
def test_a_bad_release_is_taken_back(machine: Machine, images: dict[str, str], bad: str) -> None:
    released = machine.release(images[bad], RELEASE_TIMEOUT="30")
    assert released.returncode == 1
    assert f"{images['two']} serves" in released.stderr
    assert machine.serving() == images["two"]
    assert machine.ask("/health/ready") == 200


def test_there_is_a_way_back(machine: Machine, images: dict[str, str]) -> None:
    assert machine.release("--back").returncode == 0
    assert machine.serving() == images["one"]
    assert machine.ask("/health/ready") == 200
    assert "no image to go back to" in machine.release("--back").stderr
