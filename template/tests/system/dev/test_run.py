"""`app dev` with real processes, on a small service in a temporary folder."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

import app.platform.dev
from app.platform.dev.servers import KINDS
from app.platform.settings.core import DEPLOYED

SECONDS = 60  # until a test gives up, on the slowest machine

SERVICE = """
async def service(scope, receive, send):
    assert scope["type"] == "http"
    assert scope["client"][0] == "127.0.0.1"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"version 1"})

def create_app():
    return service
"""
CONNECTION_LIMITS = """
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as BoundedHttpProtocol
"""
COMMANDS = """
import os, signal, subprocess, sys, time
print(f"{sys.argv[1]} is process {os.getpid()}")
match sys.argv[1]:
    case "dev":
        from app.platform.dev.run import run
        sys.exit(run(port=int(sys.argv[2]), background=[[name] for name in sys.argv[3:]]))
    case "migrate":
        print("key", os.environ["SECRET_KEY"])
        sys.exit(os.environ["ENVIRONMENT"] == "test")
    case "worker":
        subprocess.Popen(["sleep", "600"])  # what it leaves behind has to go, too
        signal.pause()
    case "sick":
        time.sleep(0.2)
        sys.exit(7)
"""


class Dev:
    """A running `app dev`, and what it has written so far."""

    def __init__(self, project: Path, port: int, *background: str, **environment: str) -> None:
        given = {"DATABASE_URL": "postgresql+asyncpg://me:hidden@db/mine", "REDIS_URL": "redis://r"}
        self.port = port
        self.log = project / "output"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "dev", str(port), *background],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=project,
                env={**given, "PATH": os.environ["PATH"], "PYTHONPATH": "src", **environment},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(rf"\b{name} is process (\d+)", self.output)]

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: "Ctrl-C stops everything" in self.output)

    def get(self) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            connection.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "app"
    platform = package / "platform"
    ignored = shutil.ignore_patterns("__pycache__")  # other processes are writing to it
    shutil.copytree(Path(app.platform.dev.__file__).parent, platform / "dev", ignore=ignored)
    for folder in (package, platform, platform / "server", platform / "settings"):
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (package / "main.py").write_text(SERVICE)
    (platform / "server" / "connection_limits.py").write_text(CONNECTION_LIMITS)
    (platform / "settings" / "core.py").write_text(f"DEPLOYED = {DEPLOYED}\n")
    (package / "__main__.py").write_text(COMMANDS)
    return tmp_path


@pytest.fixture
def start(project: Path, port: int) -> Iterator[Callable[..., Dev]]:
    """Start `app dev`; its guards end what a failed test leaves."""
    started = []

    def start(*background: str, port: int = port, **environment: str) -> Dev:
        started.append(Dev(project, port, *background, **environment))
        return started[-1]

    yield start
    for dev in started:
        dev.process.kill()
        dev.process.wait()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_everything_runs_and_ctrl_c_stops_it(start: Callable[..., Dev], port: int) -> None:
    dev = start("worker", REDIS_URL="")
    dev.wait_until_ready()
    output = dev.output
    assert output.index("migrate | migrate is process") < output.index("worker  | worker is")
    assert f"http://127.0.0.1:{port}/docs" in output
    assert "postgresql://me:***@db/mine\n" in output
    redis = int(re.findall(r"Redis +redis://127\.0\.0\.1:(\d+)/0", output)[0])
    with socket.create_connection(("127.0.0.1", redis)):
        pass
    os.killpg(dev.process.pid, signal.SIGINT)
    assert dev.process.wait(SECONDS) == 0
    assert "Traceback" not in dev.output
    assert gone(dev.pids("worker")[0])
    for address in (port, redis):
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", address)),
        ):
            pass


def test_other_commands_can_find_what_runs(start: Callable[..., Dev], project: Path) -> None:
    (project / ".env").write_text('GREETING="it\'s $5"\nSECRET_KEY=from-the-file\n')
    dev = start()
    dev.wait_until_ready()
    file = project / ".local" / "environment"
    read = ["uv", "run", "--no-project", "--env-file", str(file), "env", "-0"]
    found = dict(
        line.split("=", 1)
        for line in subprocess.check_output(read, text=True).split("\0")
        if "=" in line
    )
    assert found["GREETING"] == "it's $5"
    assert found["DATABASE_URL"] == "postgresql+asyncpg://me:hidden@db/mine"
    assert {kind.variable for kind in KINDS} <= found.keys()
    assert found["ENVIRONMENT"] == "development"
    assert found["SECRET_KEY"] == "from-the-file"
    assert file.stat().st_mode & 0o077 == 0
    dev.process.terminate()
    assert dev.process.wait(SECONDS) == 0
    assert not file.exists()


def test_edits_restart_the_api_and_its_background_processes(
    start: Callable[..., Dev], project: Path
) -> None:
    package = project / "src" / "app"
    dev = start("worker")
    dev.wait_until_ready()
    # Of another size: bytecode is taken for fresh when the source's size and second are the same.
    edited = SERVICE.replace("version 1", "edited")
    (package / "main.py").write_text(edited)
    dev.wait_for(lambda: dev.get() == b"edited" and len(dev.pids("worker")) > 1)
    (package / "__main__.py").write_text("broken(")
    dev.wait_for(lambda: "it starts again after the next edit" in dev.output)
    started = len(dev.pids("worker"))  # a slow disk can make two edits of one
    (package / "__main__.py").write_text(COMMANDS)
    dev.wait_for(lambda: len(dev.pids("worker")) > started)
    dev.process.terminate()
    assert dev.process.wait(SECONDS) == 0
    assert all(gone(pid) for pid in dev.pids("worker"))


@pytest.mark.parametrize("broken", ["broken(", "def create_app(): raise RuntimeError"])
def test_a_request_gets_503_while_the_edited_code_does_not_start(
    start: Callable[..., Dev], project: Path, broken: str
) -> None:
    main = project / "src" / "app" / "main.py"
    dev = start()
    dev.wait_until_ready()
    main.write_text(broken)
    dev.wait_for(lambda: dev.get().startswith(b"The edited code does not start"))
    assert "Error" in dev.output
    with socket.create_connection(("127.0.0.1", dev.port)):  # one that sends nothing
        main.write_text(SERVICE.replace("version 1", "mended"))
        dev.wait_for(lambda: dev.get() == b"mended")
    dev.process.terminate()
    assert dev.process.wait(SECONDS) == 0


def test_a_request_waits_while_an_edited_api_restarts(
    start: Callable[..., Dev], project: Path
) -> None:
    dev = start()
    dev.wait_until_ready()
    slow = "import time\ntime.sleep(1)\n" + SERVICE.replace("version 1", "edited")
    (project / "src" / "app" / "main.py").write_text(slow)
    answers = set()

    def edited() -> bool:
        answers.add(dev.get())
        return b"edited" in answers

    dev.wait_for(edited)
    assert answers == {b"version 1", b"edited"}


def test_when_one_process_ends_the_rest_stops(start: Callable[..., Dev]) -> None:
    dev = start("worker", "sick")
    assert dev.process.wait(SECONDS) == 1
    assert dev.output.endswith("app dev: sick ended with exit code 7, so the rest stopped\n")
    assert gone(dev.pids("worker")[0])
    assert dev.get() == b""


def test_when_a_server_ends_the_rest_stops(start: Callable[..., Dev]) -> None:
    dev = start("worker", REDIS_URL="")
    dev.wait_until_ready()
    with Redis.from_url(re.findall(r"redis://127\.0\.0\.1:\d+/0", dev.output)[0]) as client:
        server = int(client.info("server")["process_id"])
    os.kill(server, signal.SIGKILL)
    assert dev.process.wait(SECONDS) == 1
    assert "app dev: Redis ended with exit code 137. Its log ends with" in dev.output
    assert gone(dev.pids("worker")[0])


def test_nothing_outlives_a_killed_app_dev(start: Callable[..., Dev]) -> None:
    dev = start("worker")
    dev.wait_until_ready()
    os.killpg(dev.process.pid, signal.SIGKILL)
    dev.process.wait()
    dev.wait_for(lambda: gone(dev.pids("worker")[0]) and dev.get() == b"")


def test_failed_migrations_stop_the_start_and_the_secret_key_stays(
    start: Callable[..., Dev], project: Path
) -> None:
    keys = []
    for _ in range(2):
        dev = start("worker", ENVIRONMENT="test")
        assert dev.process.wait(SECONDS) == 1
        assert "the migrations failed with exit code 1" in dev.output
        assert dev.pids("worker") == []
        keys += re.findall("key ([0-9a-f]{64})", dev.output)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert (project / ".local" / "secret-key").stat().st_mode & 0o077 == 0


def test_production_is_refused_also_when_a_file_says_so(
    start: Callable[..., Dev], project: Path
) -> None:
    (project / ".env").write_text("ENVIRONMENT=production\n")
    dev = start()
    assert dev.process.wait(SECONDS) == 1
    assert "app dev: ENVIRONMENT is production: unset it, or" in dev.output
    assert dev.pids("migrate") == []


def test_a_port_in_use_is_named(start: Callable[..., Dev]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dev = start(port=taken.getsockname()[1])
        assert dev.process.wait(SECONDS) == 1
    assert f"port {dev.port} can't be used (Address already in use)" in dev.output
    assert "--port" in dev.output
