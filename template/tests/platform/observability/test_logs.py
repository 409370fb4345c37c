"""Logs: one JSON line per event, in one format, without secrets."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import literal, select

from app.platform.base import context
from app.platform.http import routing
from app.platform.observability import logs
from app.settings import Settings
from tests.conftest import client_for, running_platform


def lines(capfd: pytest.CaptureFixture[str], **having: str) -> list[dict[str, Any]]:
    """The lines with these values; the app that all tests share may write others meanwhile."""
    written = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    return [line for line in written if having.items() <= line.items()]


@pytest.mark.parametrize(
    ("in_terminal", "through_dev", "environment", "pretty"),
    [
        (True, False, "development", True),
        (False, True, "development", True),
        (False, False, "development", False),
        (True, True, "production", False),
    ],
)
def test_a_person_who_develops_reads_the_log_without_json(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    in_terminal: bool,
    through_dev: bool,
    environment: str,
    pretty: bool,
) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: in_terminal))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if through_dev:
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert logs.is_pretty(settings.model_copy(update={"environment": environment})) is pretty


def test_the_servers_own_access_log_is_off(settings: Settings) -> None:
    logs.configure(settings)
    assert not logging.getLogger("uvicorn.access").isEnabledFor(logging.CRITICAL)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(settings) as app:

        async def show(thing: str) -> str:
            context.current().user_id = "user-7"
            return thing

        async def refuse() -> None:
            raise HTTPException(403)

        async def fail() -> None:
            raise RuntimeError("postgresql://joe:hunter2@db/app said no to joe@example.org")

        app.add_api_route("/things/{thing}", show)
        app.add_api_route("/refuse", refuse, response_model=None)
        app.add_api_route("/fail", fail, response_model=None)
        routing.install_index(app)
        yield app


async def request_lines(
    service: FastAPI, capfd: pytest.CaptureFixture[str], *paths: str
) -> list[dict[str, Any]]:
    capfd.readouterr()
    async with client_for(service) as client:
        for path in paths:
            await client.get(path, headers={"X-Request-ID": "r-1", "Cookie": "session=s3cret"})
    service.state.access_log.flush()
    return lines(capfd, event="request", request_id="r-1")


async def test_a_request_is_logged_as_one_line(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    [line] = await request_lines(service, capfd, "/things/7?token=s3cret")
    assert line["method"] == "GET"
    assert line["route"] == "/things/{thing}"
    assert line["path"] == "/things/7"
    assert line["status"] == 200
    assert 0 < line["duration_ms"] < 5000
    assert line["request_id"] == "r-1"
    assert line["user_id"] == "user-7"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")
    assert "s3cret" not in json.dumps(line)


async def test_an_unknown_path_is_logged_without_a_route_and_redacted(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    [line] = await request_lines(service, capfd, "/nowhere/joe@example.org")
    assert (line["route"], line["status"]) == ("", 404)
    assert line["path"] == "/nowhere/[redacted]"


async def test_a_failed_request_and_its_traceback_are_written_immediately(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    async with client_for(service) as client:
        await client.get("/fail", headers={"X-Request-ID": "r-2"})
    error, request = lines(capfd, request_id="r-2")
    assert request["status"] == 500
    assert request["level"] == error["level"] == "error"
    assert "RuntimeError" in error["exception"]
    assert "hunter2" not in error["exception"]
    assert "joe@example.org" not in error["exception"]


async def test_only_successful_requests_are_sampled(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_platform(settings.model_copy(update={"access_log_sample_rate": 0.0})) as app:
        written = await request_lines(app, capfd, "/openapi.json", "/nowhere", "/openapi.json")
    assert [line["status"] for line in written] == [404]


async def test_a_slow_request_is_logged_whatever_the_sample_rate(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    unsampled = settings.model_copy(update={"access_log_sample_rate": 0.0, "slow_request_ms": 20})

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with running_platform(unsampled) as app:
        app.add_api_route("/nap", nap)
        routing.install_index(app)
        written = await request_lines(app, capfd, "/nap?seconds=0", "/nap?seconds=0.03")
        fast = [line for line in written if line["duration_ms"] < 20]
    assert fast == []
    assert written[-1]["duration_ms"] >= 20
    off = unsampled.model_copy(update={"slow_request_ms": 0})
    async with running_platform(off) as app:
        app.add_api_route("/nap", nap)
        routing.install_index(app)
        assert await request_lines(app, capfd, "/nap?seconds=0.03") == []


async def test_probes_are_not_logged(service: FastAPI, capfd: pytest.CaptureFixture[str]) -> None:
    assert await request_lines(service, capfd, "/health/live", "/metrics") == []


async def test_probes_are_logged_at_the_debug_level(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        async with running_platform(settings.model_copy(update={"log_level": "DEBUG"})) as app:
            [line] = await request_lines(app, capfd, "/health/live")
    finally:
        logs.configure(settings)
    assert line["path"] == "/health/live"


async def test_every_line_of_a_request_has_its_ids_from_any_logger(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    with context.bind_request_context(request_id="r-3", trace_id="t", span_id="s", user_id="u"):
        logs.get_logger("shop").info("order placed", order_id=7)
        logging.getLogger("uvicorn.error").warning("slow %s", "client")
    ours, theirs = lines(capfd, request_id="r-3")
    assert (ours["event"], ours["logger"], ours["order_id"]) == ("order placed", "shop", 7)
    assert (theirs["event"], theirs["logger"]) == ("slow client", "uvicorn.error")
    for line in (ours, theirs):
        assert line["trace_id"] == "t"
        assert line["span_id"] == "s"
        assert line["user_id"] == "u"
        assert set(line) >= {"timestamp", "level"}


async def test_secrets_and_personal_values_are_redacted(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2UifQ.c2lnbmF0dXJl"
    logs.get_logger("shop").warning(
        "call to https://joe:hunter2@api.example.org failed for joe@example.org",
        password="hunter2",
        headers={"Authorization": "Bearer hunter2", "Cookie": "hunter2", "Accept": "text/html"},
        callers=[{"api_key": "hunter2", "e-mail": "joe@example.org"}],
        url="https://example.org/?page=2&token=hunter2&x=1",
        note=f"Authorization was bearer {token}",
        amount=7,
    )
    [line] = lines(capfd, logger="shop")
    text = json.dumps(line)
    assert "hunter2" not in text
    assert "joe@example.org" not in text
    assert token not in text
    assert line["headers"]["Accept"] == "text/html"
    assert line["amount"] == 7
    assert line["url"] == "https://example.org/?page=2&token=[redacted]&x=1"


async def test_logged_input_cannot_forge_a_line(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    forged = 'x\r\n\v\x1c\x85\u2028\u2029{"event":"admin logged in","level":"info"}'
    logs.get_logger("shop").info(forged, note=forged)
    logging.getLogger("shop").warning("%s", forged)
    assert [line["event"] for line in lines(capfd, logger="shop")] == [forged, forged]


async def test_lines_below_the_log_level_are_dropped(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    logs.get_logger("shop").debug("detail")
    logging.getLogger("shop").debug("detail")
    assert lines(capfd, logger="shop") == []


async def test_the_debug_level_shows_sql_without_its_values(
    settings: Settings, service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = select(literal("s3cret"))
    await service.state.read_session.first(shown)
    assert lines(capfd, logger="sqlalchemy.engine.Engine") == []
    try:
        logs.configure(settings.model_copy(update={"log_level": "DEBUG"}))
        await service.state.read_session.first(shown)
        written = lines(capfd, logger="sqlalchemy.engine.Engine")
    finally:
        logs.configure(settings)
    assert any(line["event"].startswith("SELECT") for line in written)
    assert "s3cret" not in str(written)


async def test_values_without_a_json_type_are_written_as_text(
    service: FastAPI, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's handlers would keep the lone surrogate for the report, which xdist can't send.
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, logs.OutputHandler)]
    monkeypatch.setattr(root, "handlers", ours)
    capfd.readouterr()
    logs.get_logger("shop").info("odd", kind=ValueError("no"), bad="\ud800", keys={1: 2**70})
    logging.getLogger("shop").warning("%s", "\ud800")
    written = [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]  # it is strict
    assert len([line for line in written if line["logger"] == "shop"]) == 2
