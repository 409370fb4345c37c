"""Feature flags: rollouts, types, changes seen by every process, outages."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio import sleep
from anyio.to_thread import run_sync
from click.testing import CliRunner, Result
from fastapi import FastAPI

from app.cli import add_commands, cli
from app.platform.base.components import CommandContext
from app.platform.data.database import ReadSession
from app.platform.data.flags import Flags, FlagsDep, position
from app.settings import Settings
from tests.conftest import client_for, running_platform

USERS = [f"user-{number}" for number in range(1000)]


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    changes = {"flags": {"fixed": True, "rate": 2}, "flags_refresh": 0.02}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        yield app


@pytest.fixture
def flags(service: FastAPI) -> Flags:
    found: Flags = service.state.flags
    return found


def command(settings: Settings, *arguments: str) -> Result:
    add_commands(cli)
    context = CommandContext(lambda: settings, lambda _: FastAPI())
    return CliRunner().invoke(cli, ["flags", *arguments], obj=context)


async def run(service: FastAPI, *arguments: str) -> str:
    """Run a command in a thread, as another process would; wait until the app has read it."""
    result = await run_sync(command, service.state.settings, *arguments)
    assert result.exit_code == 0, result.output
    await service.state.flags.refresh(service.state.read_session)
    return result.output


async def test_a_flag_is_on_for_its_users_and_a_stable_percentage(
    service: FastAPI, flags: Flags
) -> None:
    assert not flags.enabled("new", USERS[0])
    await run(service, "set", "new", "true", "--percentage", "10", "--user", "ada")
    tenth = {user for user in USERS if flags.enabled("new", user)}
    assert 60 < len(tenth) < 140
    assert flags.enabled("new", "ada")
    assert not flags.enabled("new")  # whose percentage would that be?
    await run(service, "set", "new", "true", "--percentage", "30")
    third = {user for user in USERS if flags.enabled("new", user)}
    assert tenth < third
    assert 240 < len(third) < 360
    await run(service, "set", "new", "true")
    assert flags.enabled("new")
    assert all(flags.enabled("new", user) for user in USERS)
    await run(service, "set", "new", "true", "--percentage", "0", "--user", "ada")
    assert [user for user in [*USERS, "ada"] if flags.enabled("new", user)] == ["ada"]
    await run(service, "unset", "new")
    assert not flags.enabled("new", "ada")


def test_two_flags_choose_different_users() -> None:
    one, other = ({user for user in USERS if position(name, user) < 10} for name in ("a", "b"))
    assert len(one & other) < len(one) / 2


async def test_the_default_decides_the_type(
    service: FastAPI, flags: Flags, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("size", "50"), ("ratio", "0.5"), ("tone", "calm"), ("on", "true")):
        await run(service, "set", name, value)
    assert flags.value("size", 20) == 50
    assert flags.value("size", 20.0) == 50.0
    assert flags.value("ratio", 1.0) == 0.5
    assert flags.value("tone", "loud") == "calm"
    capfd.readouterr()
    for _ in range(3):
        assert flags.value("size", "a") == "a"
        assert flags.value("on", 1) == 1  # a bool is no number
        assert flags.value("missing", 7) == 7
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["flag"], line["reason"]) for line in lines] == [
        ("size", "type_mismatch"),
        ("on", "type_mismatch"),
        ("missing", "flag_not_found"),
    ]


async def test_a_fixed_flag_wins_over_the_database(service: FastAPI, flags: Flags) -> None:
    await run(service, "set", "fixed", "false")
    assert flags.enabled("fixed")
    assert flags.value("rate", 1) == 2


async def test_a_change_reaches_every_process(service: FastAPI, module_settings: Settings) -> None:
    settings = module_settings.model_copy(update={"flags_refresh": 0.02})
    async with running_platform(settings) as other:
        for on in (True, False, True):
            await run(service, "set", "shared", json.dumps(on))
            end = time.monotonic() + 10
            while other.state.flags.enabled("shared") != on:
                assert time.monotonic() < end
                await sleep(0.01)


async def test_the_last_values_stay_while_the_database_is_away(
    service: FastAPI, flags: Flags, capfd: pytest.CaptureFixture[str]
) -> None:
    class Away(ReadSession):
        async def all(self, *_: Any, **__: Any) -> Any:
            raise OSError

    await run(service, "set", "kept", "true")
    capfd.readouterr()
    assert not await flags.refresh(Away(service.state.db))
    assert flags.enabled("kept")
    assert "flags not read" in capfd.readouterr().out


async def test_an_evaluation_sends_no_query(service: FastAPI, flags: Flags) -> None:
    async def read(flags: FlagsDep) -> bool:
        return flags.enabled("fixed")

    service.add_api_route("/flag", read)
    used = service.state.db.connect
    service.state.db.connect = None
    try:
        async with client_for(service) as client:
            assert (await client.get("/flag")).json() is True
    finally:
        service.state.db.connect = used


async def test_the_commands_say_what_is_there_and_what_is_wrong(service: FastAPI) -> None:
    await run(service, "set", "listed", "true", "--percentage", "25", "--user", "ada")
    line = next(
        line for line in (await run(service, "list")).splitlines() if line.startswith("listed ")
    )
    assert "  true  25 %  and ada  20" in line
    settings = service.state.settings
    missing = await run_sync(command, settings, "unset", "nothing")
    assert (missing.exit_code, "There is no flag nothing" in missing.output) == (1, True)
    wrong = await run_sync(command, settings, "set", "x", "true", "--percentage", "101")
    assert wrong.exit_code == 2


async def test_the_log_line_of_a_request_has_its_flags_without_the_user(
    service: FastAPI, flags: Flags, capfd: pytest.CaptureFixture[str]
) -> None:
    async def read(flags: FlagsDep, many: int = 0) -> None:
        flags.enabled("fixed", "user-7")
        flags.value("rate", 1)
        flags.value("missing", "of joe@example.org " + "x" * 1000)
        for number in range(many):
            flags.enabled(f"flag-{number}")

    service.add_api_route("/evaluates", read)
    async with client_for(service) as client:
        capfd.readouterr()
        await client.get("/evaluates")
        await client.get("/evaluates?many=100")
        await client.get("/health/live")
        await client.get("/nowhere")
        service.state.access_log.flush()
    out = capfd.readouterr().out
    lines = [line for line in map(json.loads, out.splitlines()) if line["event"] == "request"]
    one, many, *others = [line.get("flags") for line in lines]
    assert (one["fixed"], one["rate"]) == (True, 2)
    assert len(one["missing"]) == 100
    assert "joe" not in out
    assert "user-7" not in out
    assert len(many) == 20
    assert others == [None]
