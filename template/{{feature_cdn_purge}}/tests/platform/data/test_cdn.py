"""Purges reach the CDN once a transaction has committed, in batches, and again if it fails."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from anyio import sleep
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from app import main
from app.platform.base.errors import NotFound
from app.platform.data import cdn as cdn_module
from app.platform.data.cdn import Cdn, CdnDep, to_key
from app.platform.data.database import SessionDep
from app.platform.settings import SettingsError
from app.settings import Settings
from tests.conftest import client_for, running_platform


class Peer:
    """A CDN's purge API: it answers with the statuses of ``script``, and then with 200."""

    def __init__(self) -> None:
        self.script: list[int] = []
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.url = ""
        self.hold = asyncio.Event()
        self.hold.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                self.heads.append(head)
                self.bodies.append(json.loads(await reader.readexactly(length)))
                await self.hold.wait()
                status = self.script.pop(0) if self.script else 200
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    @property
    def keys(self) -> list[str]:
        return [key for body in self.bodies for key in next(iter(body.values()))]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/service/1/purge"
    yield peer
    peer.hold.set()
    server.close()


@pytest.fixture
async def service(
    module_settings: Settings, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    monkeypatch.setattr(cdn_module, "RETRY_INTERVALS", (0.01, 0.02))
    async with running_platform(with_cdn(module_settings, peer.url)) as app:
        yield app


def with_cdn(settings: Settings, url: str, **more: Any) -> Settings:
    token = SecretStr("s3cret-token")
    return settings.model_copy(update={"cdn_purge_url": url, "cdn_purge_token": token, **more})


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        await sleep(0.005)


async def test_keys_are_purged_when_the_transaction_commits_and_only_then(
    service: FastAPI, peer: Peer
) -> None:
    async def change(session: SessionDep, cdn: CdnDep, fails: bool) -> None:
        cdn.purge_on_commit(session, "failed" if fails else "committed", 7)
        assert peer.bodies == []
        if fails:
            raise NotFound("There is no such thing.")

    service.add_api_route("/change", change, methods=["POST"])
    async with client_for(service) as client:
        assert (await client.post("/change?fails=true")).status_code == 404
        assert (await client.post("/change?fails=false")).status_code == 200
    await until(lambda: peer.bodies)
    assert peer.bodies == [{"surrogate_keys": ["committed", "7"]}]
    assert peer.heads[0].startswith("post /service/1/purge http/1.1")
    assert "fastly-key: s3cret-token" in peer.heads[0]


async def test_a_batch_that_fails_is_sent_again_and_the_token_is_not_logged(
    service: FastAPI, peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    cdn: Cdn = service.state.cdn
    value = service.state.metrics.registry.get_sample_value
    peer.script = [500, 429, 401]
    cdn.purge("a", "b", "a")
    await until(lambda: len(peer.bodies) == 4 and not cdn._pending)
    assert peer.bodies == [{"surrogate_keys": ["a", "b"]}] * 4
    await until(lambda: value("cdn_purges_total", {"outcome": "purged"}) == 2)
    assert value("cdn_purge_errors_total") == 3
    assert value("cdn_purge_keys_pending") == 0
    assert "s3cret-token" not in capfd.readouterr().out


async def test_a_key_that_changes_again_during_its_purge_is_purged_again(
    service: FastAPI, peer: Peer
) -> None:
    peer.hold.clear()
    service.state.cdn.purge("a")
    await until(lambda: peer.bodies)
    service.state.cdn.purge("a")
    peer.hold.set()
    await until(lambda: len(peer.bodies) == 2)
    assert peer.keys == ["a", "a"]


async def test_a_cloudflare_zone_is_purged_by_tags_thirty_at_a_time(
    module_settings: Settings, peer: Peer
) -> None:
    async with running_platform(
        with_cdn(module_settings, peer.url, cdn_provider="cloudflare")
    ) as app:
        app.state.cdn.purge(*range(70))
        await until(lambda: len(peer.keys) == 70)
    assert [len(body["tags"]) for body in peer.bodies] == [30, 30, 10]
    assert "authorization: bearer s3cret-token" in peer.heads[0]


async def test_what_waits_when_the_service_stops_is_sent(
    module_settings: Settings, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdn_module, "RETRY_INTERVALS", (60, 60))
    peer.script = [500]
    async with running_platform(with_cdn(module_settings, peer.url)) as app:
        app.state.cdn.purge("a")
        await until(lambda: peer.bodies)
    assert peer.keys == ["a", "a"]


async def test_keys_that_wait_are_bounded_in_number_and_time(
    service: FastAPI, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdn: Cdn = service.state.cdn
    value = service.state.metrics.registry.get_sample_value
    monkeypatch.setattr(cdn_module, "MAX_PENDING", 3)
    cdn.purge(*range(5))  # before the task that sends runs
    await until(lambda: not cdn._pending and peer.bodies)
    assert peer.keys == ["0", "1", "2"]
    assert value("cdn_purges_total", {"outcome": "lost"}) == 2
    monkeypatch.setattr(cdn_module, "MAX_AGE", 0)
    peer.script = [500]
    cdn.purge("late")
    await until(lambda: value("cdn_purges_total", {"outcome": "lost"}) == 3)
    assert cdn._pending == {}


async def test_without_a_cdn_nothing_is_sent_or_kept(module_settings: Settings) -> None:
    async with running_platform(module_settings) as app:
        app.state.cdn.purge("a")
        assert app.state.cdn._pending == {}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("product-7", "product-7"),
        ("Product 7, or\r\nmore", "product%207%2c%20or%0d%0amore"),
        ("größe", "gr%c3%b6%c3%9fe"),
        ("\ud800", "%3f"),
    ],
)
def test_keys_are_safe_in_headers_of_every_cdn(text: str, key: str) -> None:
    assert to_key(text) == key
    assert to_key(key.replace("%", "-")) == key.replace("%", "-")


@pytest.mark.parametrize("text", ["", "x" * 129, "ü" * 500])
def test_a_key_that_is_too_long_or_empty_has_a_short_one_instead(text: str) -> None:
    assert len(to_key(text)) == 64
    assert to_key(text) != to_key(text + "y")


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com/purge",
        "http://api.example.com/purge",
        "https://",
        "https://[::1",
        "https://api.example.com:port/purge",
    ],
)
def test_a_purge_url_that_cannot_work_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(ValidationError, match="write it as https"):
        Settings.model_validate({**settings.model_dump(), "cdn_purge_url": url})


def test_a_purge_url_without_a_token_starts_nothing(settings: Settings) -> None:
    url = "https://api.example.com/service/1/purge"
    with pytest.raises(SettingsError, match="CDN_PURGE_TOKEN"):
        main.create_app(settings.model_copy(update={"cdn_purge_url": url}))
