"""Received webhooks: only signed ones, once each, and nothing told to strangers."""

import asyncio
import base64
import hmac
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import orjson
import pytest
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy import text

from app.platform.data import received_webhooks
from app.platform.data.database import SessionDep
from app.platform.http import routing
from app.platform.http import webhooks as module
from app.platform.http.webhooks import WebhookMessage, hmac_sha256, webhook_source
from app.platform.settings.webhooks import WebhookSettings, webhook_keys
from app.settings import Settings
from tests.conftest import client_for, running_platform
from tests.webhooks import signed

KEY, NEXT_KEY, HMAC_KEY, OTHER = (secrets.token_bytes(32) for _ in range(4))
BODY = b'{"amount": 7}'
MAX_SIZE = 1000
BILLING = webhook_source("billing")
UNKNOWN = webhook_source("unknown")
SHOP = webhook_source("shop", hmac_sha256("X-Shop-Signature", prefix="sha256="))


def whsec(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


class Payment(BaseModel):
    amount: int


class Routes:
    """Routes that add payments; ``pay`` waits for the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def pay(
        self, message: Annotated[WebhookMessage, Depends(BILLING)], session: SessionDep
    ) -> None:
        await insert(session, message)
        self.entered.set()
        await self.gate.wait()
        if message.parse(Payment).amount == 0:
            raise RuntimeError("It fails after its statement.")

    async def push(
        self, message: Annotated[WebhookMessage, Depends(SHOP)], session: SessionDep
    ) -> None:
        await insert(session, message)

    async def unknown(self, message: Annotated[WebhookMessage, Depends(UNKNOWN)]) -> None:
        raise AssertionError


async def insert(session: Any, message: WebhookMessage) -> None:
    await session.execute(text("INSERT INTO messages_of_a_test VALUES (:id)"), {"id": message.id})


@pytest.fixture(scope="module")
async def shared(module_settings: Settings) -> AsyncIterator[FastAPI]:
    pairs = f"billing:{whsec(KEY)},billing:{whsec(NEXT_KEY)},shop:{HMAC_KEY.hex()}"
    changes = {"webhook_secrets": SecretStr(pairs), "webhook_max_size": MAX_SIZE}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        async with app.state.db.transaction() as session:
            await session.execute(text("CREATE TABLE messages_of_a_test (id text)"))
        app.state.routes = Routes()
        router = APIRouter(prefix="/hooks")
        for name in ("pay", "push", "unknown"):
            route = getattr(app.state.routes, name)
            router.add_api_route(f"/{name}", route, methods=["POST"], status_code=202)
        app.include_router(router)
        routing.install_index(app)
        yield app


@pytest.fixture
async def client(shared: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    shared.state.routes.gate.set()
    shared.state.routes.entered.clear()
    async with shared.state.db.transaction() as session:
        await session.execute(text("TRUNCATE messages_of_a_test, received_webhooks"))
    async with client_for(shared) as client:
        yield client


async def ids(app: FastAPI, table: str = "messages_of_a_test") -> list[str]:
    async with app.state.db.transaction() as session:
        return list((await session.execute(text(f"SELECT id FROM {table}"))).scalars())


@pytest.mark.parametrize("key", [KEY, NEXT_KEY], ids=["first", "second"])
async def test_a_message_that_one_of_the_secrets_has_signed_is_accepted(
    shared: FastAPI, client: httpx2.AsyncClient, key: bytes
) -> None:
    answer = await client.post("/hooks/pay", content=BODY, headers=signed(key, BODY, "one"))
    assert (answer.status_code, await ids(shared)) == (202, ["one"])


async def test_a_message_signed_by_several_keys_needs_one_that_is_known(
    client: httpx2.AsyncClient,
) -> None:
    headers, other = signed(KEY, BODY, "one"), signed(OTHER, BODY, "one")
    both = f"{other['webhook-signature']} {headers['webhook-signature']}"
    answer = await client.post(
        "/hooks/pay", content=BODY, headers=headers | {"webhook-signature": both}
    )
    assert answer.status_code == 202


def forged() -> dict[str, tuple[bytes, dict[str, str]]]:
    good = signed(KEY, BODY)
    without = {name: value for name, value in good.items() if name != "webhook-signature"}
    return {
        "of another key": (BODY, signed(OTHER, BODY)),
        "of another body": (b'{"amount": 8}', good),
        "of another id": (BODY, good | {"webhook-id": "other"}),
        "of another time": (BODY, good | {"webhook-timestamp": "1"}),
        "from a clock that is six minutes late": (BODY, signed(KEY, BODY, late=360)),
        "from a clock that is six minutes early": (BODY, signed(KEY, BODY, late=-360)),
        "without a signature": (BODY, without),
        "without an id": (BODY, good | {"webhook-id": ""}),
        "with a long id": (BODY, signed(KEY, BODY, "x" * 256)),
        "of no version": (BODY, good | {"webhook-signature": "nonsense"}),
        "that is no base64": (BODY, good | {"webhook-signature": "v1,a"}),
        "with a time that is no number": (BODY, good | {"webhook-timestamp": "nan"}),
        "of a body that is no text": (b"\xff\xfe", good),
        "of an empty body": (b"", {}),
    }


@pytest.mark.parametrize("name", forged())
async def test_a_message_that_is_not_signed_gets_one_answer_and_touches_no_database(
    client: httpx2.AsyncClient,
    shared: FastAPI,
    name: str,
    queries: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    body, headers = forged()[name]
    answer = await client.post("/hooks/pay", content=body, headers=headers)
    unknown = await client.post("/hooks/unknown", content=BODY, headers=signed(KEY, BODY))
    for each in (answer, unknown):
        problem = each.json()
        problem.pop("request_id")
        problem.pop("trace_id", None)
        assert problem == {
            "type": "urn:problem:unauthorized",
            "title": "Unauthorized",
            "status": 401,
            "detail": "The signature of the message is not valid.",
            "code": "unauthorized",
        }
    assert not [query for query in queries if "webhook" in query]  # others are not of the request
    lines = [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]
    refused = [line for line in lines if line["event"] == "audit.receive_webhook"]
    assert [line["subject"] for line in refused] == ["billing", "unknown"]
    assert all(line["reason"] for line in refused)


async def test_a_message_within_five_minutes_of_either_clock_is_accepted(
    client: httpx2.AsyncClient,
) -> None:
    for late in (240, -240):
        headers = signed(KEY, BODY, late=late)
        assert (await client.post("/hooks/pay", content=BODY, headers=headers)).status_code == 202


async def test_a_repeated_message_is_accepted_and_does_nothing(
    shared: FastAPI, client: httpx2.AsyncClient
) -> None:
    for late in (0, 0, 60):  # a sender signs each attempt with its own time
        headers = signed(KEY, BODY, "one", late=late)
        assert (await client.post("/hooks/pay", content=BODY, headers=headers)).status_code == 202
    assert await ids(shared) == ["one"]


async def test_a_flood_of_one_message_takes_effect_once_and_waits_for_nothing(
    shared: FastAPI, client: httpx2.AsyncClient
) -> None:
    routes: Routes = shared.state.routes
    routes.gate.clear()
    headers = signed(KEY, BODY, "one")

    async def send() -> int:
        return (await client.post("/hooks/pay", content=BODY, headers=headers)).status_code

    first = asyncio.create_task(send())
    await routes.entered.wait()
    assert {await each for each in asyncio.as_completed([send() for _ in range(50)])} == {503}
    assert not first.done()
    routes.gate.set()
    assert (await first, await send()) == (202, 202)
    assert await ids(shared) == ["one"]


async def test_a_message_whose_request_failed_can_be_sent_again(
    shared: FastAPI, client: httpx2.AsyncClient
) -> None:
    body = b'{"amount": 0}'
    headers = signed(KEY, body, "one")
    for _ in range(2):
        answer = await client.post("/hooks/pay", content=body, headers=headers)
        assert answer.status_code == 500
    assert await ids(shared, "received_webhooks") == []


@pytest.mark.parametrize("body", [b'{"amount": "secret"}', b"secret, and no JSON"])
async def test_a_signed_body_that_the_route_does_not_take_is_422_without_its_content(
    shared: FastAPI, client: httpx2.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/hooks/pay", content=body, headers=signed(KEY, body))
    assert answer.status_code == 422
    assert "secret" not in answer.text
    assert await ids(shared, "received_webhooks") == []


async def test_a_large_body_is_refused_before_it_has_arrived(client: httpx2.AsyncClient) -> None:
    sent = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * MAX_SIZE:
            sent += MAX_SIZE
            yield b"x" * MAX_SIZE

    answer = await client.post("/hooks/pay", content=parts(), headers=signed(KEY, BODY))
    assert answer.status_code == 413


async def test_a_plain_hmac_is_checked_and_its_body_takes_effect_once(
    shared: FastAPI, client: httpx2.AsyncClient
) -> None:
    digest = hmac.new(HMAC_KEY.hex().encode(), BODY, "sha256").hexdigest()
    good = {"X-Shop-Signature": f"sha256={digest}"}
    for headers, status in (
        ({}, 401),
        ({"X-Shop-Signature": digest}, 401),
        ({"X-Shop-Signature": f"sha256={'0' * 64}"}, 401),
        (good, 202),
        (good, 202),
    ):
        answer = await client.post("/hooks/push", content=BODY, headers=headers)
        assert answer.status_code == status
    assert len(await ids(shared)) == 1


async def test_old_ids_are_deleted_by_later_messages(
    shared: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared.state.db.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO received_webhooks SELECT 'billing', n,"
                " now() - make_interval(days => n) FROM generate_series(6, 9) n"
            )
        )
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 1)
    headers = signed(KEY, BODY, "new")
    assert (await client.post("/hooks/pay", content=BODY, headers=headers)).status_code == 202
    assert sorted(await ids(shared, "received_webhooks")) == ["6", "new"]
    async with shared.state.db.transaction() as session:
        assert await received_webhooks.sweep(session, 3600, 10) == 1


async def test_a_sweep_does_not_wait_for_another_one(shared: FastAPI) -> None:
    db = shared.state.db
    async with db.transaction() as session:
        values = "SELECT 'billing', n, now() - interval '1 day' FROM generate_series(1, 3) n"
        await session.execute(text("DELETE FROM received_webhooks"))
        await session.execute(text(f"INSERT INTO received_webhooks {values}"))
    async with db.engine.begin() as other, db.transaction() as session:
        await other.execute(text("SELECT FROM received_webhooks LIMIT 1 FOR UPDATE"))
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert await received_webhooks.sweep(session, 3600, 10) == 2


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ("whsec_abc", "write it as source:secret"),
        ("Billing:0123456789abcdef", "write it as source:secret"),
        ("billing:whsec_abc", "shorter than 16 bytes"),
        ("billing:whsec_abcde", "not base64"),
    ],
)
def test_a_secret_that_can_not_be_right_is_refused_at_the_start(pairs: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        WebhookSettings(webhook_secrets=SecretStr(pairs))


def test_secrets_are_base64_after_their_prefix_and_text_otherwise() -> None:
    keys = webhook_keys(f"a:{whsec(KEY)}, a:0123456789abcdef,b:{whsec(OTHER).rstrip('=')}")
    assert keys == {"a": [KEY, b"0123456789abcdef"], "b": [OTHER]}


def test_a_source_is_a_name_that_the_secrets_can_have() -> None:
    with pytest.raises(ValueError, match="not a source"):
        webhook_source("The Bank")
