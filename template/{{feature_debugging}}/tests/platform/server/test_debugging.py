"""Looking inside a running process: what is answered, to whom, and within which bounds."""

import asyncio
import json
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from sqlalchemy import text

from app.platform.observability import logs
from app.platform.server import debug_socket, debugging
from app.platform.server.debug_commands import commands
from app.platform.server.debug_socket import DebugError, DebugServer, ask
from app.settings import Settings
from tests.conftest import ROOT, running_app

PID = os.getpid()
PAGE = (ROOT / "docs/debugging.md").read_text()
COMMANDS = [
    line.strip().removeprefix("app debug ")
    for line in PAGE.splitlines()
    if line.strip().startswith("app debug ")
]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short path: that of a socket has at most 107 bytes."""
    path = tempfile.mkdtemp(prefix="d")
    monkeypatch.setattr(debug_socket, "folder", lambda: Path(path, "sockets"))
    yield
    shutil.rmtree(path)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_app(settings) as app:
        yield app


async def answer(command: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(ask, PID, command, 20, **arguments)


async def run(line: str, tmp_path: Path) -> Result:
    """Run a command of the documentation, for less time than it says."""
    shorter = re.sub(r"--seconds \d+", "--seconds 0.2", line.replace("PID", str(PID)))
    arguments = shorter.replace("profile.html", str(tmp_path / "profile.html")).split()
    return await asyncio.to_thread(CliRunner().invoke, commands, arguments)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("service")
async def test_each_command_of_the_documentation_works(line: str, tmp_path: Path) -> None:
    result = await run(line, tmp_path)
    assert result.exit_code == 0, result.output
    assert f"process {PID}" in result.output
    if line.startswith("profile"):
        assert "<html" in (tmp_path / "profile.html").read_text()


@pytest.mark.usefixtures("service")
async def test_a_profile_can_be_written_where_no_file_can(tmp_path: Path) -> None:
    result = await run(f"profile --pid {PID} --seconds 1 --output -", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.lstrip().startswith("<!DOCTYPE html>")
    assert f"process {PID}" not in result.stdout


@pytest.mark.usefixtures("service")
async def test_tasks_that_wait_are_shown_with_their_stacks() -> None:
    async def wait_for_something() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait_for_something(), name="waiting")
    await asyncio.sleep(0)
    found = await answer("tasks")
    task.cancel()
    [stack] = [each["stack"] for each in found["tasks"] if each["name"] == "waiting"]
    assert "in wait_for_something" in stack


@pytest.mark.usefixtures("service")
async def test_a_process_answers_while_its_event_loop_is_blocked() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask(PID, "tasks", 20)))
    thread.start()
    deadline = time.monotonic() + 20
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: ASYNC251 (the blocking call under test)
    thread.join()
    assert "test_a_process_answers_while" in found[0]["event loop"]


async def test_a_connection_in_use_shows_in_the_pools(service: FastAPI) -> None:
    async with service.state.db.transaction() as session:
        await session.execute(text("SELECT 1"))
        assert (await answer("pools"))["database"]["used"] == 1
    assert (await answer("pools"))["database"]["used"] == 0


async def test_settings_are_shown_without_secrets(service: FastAPI) -> None:
    found = await answer("settings")
    settings = service.state.settings
    assert found["port"] == settings.port
    for secret in (settings.secret_key, settings.database_url):
        assert secret.get_secret_value() not in json.dumps(found)


@pytest.mark.usefixtures("service")
async def test_the_log_level_changes_also_for_loggers_in_use_and_is_put_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logger, standard = logs.get_logger("shop"), logging.getLogger("other")

    def write() -> str:
        capfd.readouterr()
        logger.debug("from structlog")
        standard.debug("from logging")
        return capfd.readouterr().out

    assert write() == ""
    assert (await answer("log-level", level="debug", minutes=0.002))["then"] == "INFO"
    written = write()
    assert "from structlog" in written
    assert "from logging" in written
    async with asyncio.timeout(20):
        while write():  # noqa: ASYNC110 (a timer puts it back)
            await asyncio.sleep(0.02)


async def test_the_log_level_is_put_back_when_the_service_stops(settings: Settings) -> None:
    async with running_app(settings):
        await answer("log-level", level="debug", minutes=5)
        assert logging.getLogger().level == logging.DEBUG
    assert logging.getLogger().level == logging.INFO


@pytest.mark.usefixtures("service")
async def test_memory_that_grows_is_attributed_to_its_line() -> None:
    kept: list[bytes] = []
    asking = asyncio.create_task(answer("memory", seconds=0.5))
    while not asking.done():
        kept.append(bytes(10_000))
        await asyncio.sleep(0.005)
    grown = [each["line"] for each in (await asking)["grown"]]
    assert any(line.startswith(__file__) for line in grown)


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("profile", {"seconds": 61}, "up to 60 seconds"),
        ("profile", {"seconds": 0}, "up to 60 seconds"),
        ("memory", {"seconds": "long"}, "up to 60 seconds"),
        ("log-level", {"level": "debug", "minutes": 61}, "up to 60 minutes"),
        ("log-level", {"level": "loud", "minutes": 1}, "Choose a level"),
        ("shell", {}, "There is no command"),
    ],
)
async def test_what_is_unknown_or_out_of_bounds_is_refused(
    command: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DebugError, match=message):
        await answer(command, **arguments)
    assert await answer("gc")


@pytest.mark.usefixtures("service")
async def test_two_profiles_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    class Profiler:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)

        def stop(self) -> None:
            nonlocal running
            running -= 1

        def output_html(self) -> str:
            return "<html>"

    monkeypatch.setattr(debugging, "Profiler", Profiler)
    await asyncio.gather(*(answer("profile", seconds=0.1) for _ in range(3)))
    assert (running, most) == (0, 1)


@pytest.mark.usefixtures("service")
async def test_each_use_is_in_the_audit_log(capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    await answer("gc")
    [line] = [json.loads(each) for each in capfd.readouterr().out.splitlines()]
    assert (line["logger"], line["event"], line["command"]) == ("app.audit", "debug command", "gc")


@pytest.mark.usefixtures("service")
async def test_only_the_user_of_the_process_reaches_its_socket() -> None:
    folder = debug_socket.folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{PID}.sock").stat().st_mode) == 0o600


async def test_a_folder_that_others_can_enter_is_not_used_and_the_service_starts(
    settings: Settings,
) -> None:
    debug_socket.folder().mkdir(mode=0o755)
    async with running_app(settings):
        assert debug_socket.processes() == []


async def test_a_link_of_somebody_elses_is_not_followed(tmp_path: Path) -> None:
    debug_socket.folder().symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        DebugServer({})


async def test_with_the_switch_off_or_after_the_end_there_is_no_socket(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"debug_socket": False})):
        assert debug_socket.processes() == []
    async with running_app(settings):
        assert debug_socket.processes() == [PID]
    assert debug_socket.processes() == []
    result = CliRunner().invoke(commands, ["tasks"])
    assert result.exit_code == 1
    assert "no process of this service runs here" in result.output


def test_the_socket_of_a_process_that_was_killed_is_removed() -> None:
    path = debug_socket.private_folder() / "1.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert debug_socket.processes() == []
    assert list(debug_socket.folder().iterdir()) == []
