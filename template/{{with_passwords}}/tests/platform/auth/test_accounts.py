import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import func, select, update

from app.platform.auth.models import Account
from app.platform.settings.rates import Rate
from app.settings import Settings
from tests.accounts import PASSWORD, log_in, register
from tests.actors import sign_in
from tests.conftest import client_for, running_app

EMAIL = "ada@example.com"
WRONG_PASSWORD = "not the right one"


@pytest.fixture
async def ada(client: httpx2.AsyncClient) -> str:
    """The id of an account that exists."""
    account_id: str = (await register(client, EMAIL)).json()["id"]
    return account_id


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls of the password hasher, which still runs."""
    seen: list[str] = []

    def record(name: str) -> None:
        real: Callable[..., Any] = getattr(Argon2Hasher, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(Argon2Hasher, name, recorded)

    record("hash")
    record("verify")
    return seen


async def test_a_registered_account_can_log_in(client: httpx2.AsyncClient) -> None:
    registered = await register(client, EMAIL)
    client.headers.update(await sign_in(client, EMAIL))
    me = await client.get("/api/v1/auth/me")

    assert registered.status_code == 201
    assert registered.json() == {"id": me.json()["id"], "email": EMAIL}
    assert me.json() == {"id": registered.json()["id"], "email": EMAIL, "scopes": []}
    assert me.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("no address", PASSWORD),
        ("a" * 250 + "@example.com", PASSWORD),
        (EMAIL, "eleven char"),
        (EMAIL, "x" * 257),
        (EMAIL, "with a NUL\0 inside"),
    ],
)
async def test_an_invalid_registration_is_refused_without_repeating_the_input(
    client: httpx2.AsyncClient, email: str, password: str
) -> None:
    answer = await register(client, email, password)

    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.dumps(password)[1:-1] not in answer.text


@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("too short", "String should have at least 12 characters"),
        ("x" * 257, "String should have at most 256 characters"),
    ],
)
async def test_a_password_of_another_length_is_told_the_bound_in_characters(
    client: httpx2.AsyncClient, password: str, message: str
) -> None:
    answer = await register(client, EMAIL, password)

    assert [error["message"] for error in answer.json()["errors"]] == [message]


@pytest.mark.parametrize(
    ("text", "status"), [("\\ud800", 400), ("\\u0000", 422), ("x" * 10_000, 422)]
)
@pytest.mark.parametrize("field", ["email", "password"])
async def test_text_that_cannot_be_stored_is_refused_in_each_field(
    client: httpx2.AsyncClient, field: str, text: str, status: int
) -> None:
    fields = {"email": EMAIL, "password": PASSWORD} | {field: f"{text}@example.com"}
    body = "{" + ", ".join(f'"{name}": "{value}"' for name, value in fields.items()) + "}"
    answer = await client.post(
        "/api/v1/auth/register", content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == status


@pytest.mark.parametrize("field", ["username", "password"])
async def test_a_form_in_an_encoding_with_lone_surrogates_is_refused(
    client: httpx2.AsyncClient, field: str
) -> None:
    fields = {"username": EMAIL, "password": PASSWORD} | {field: "+2AA-"}  # U+D800 in UTF-7
    parts = (
        f'--part\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    answer = await client.post(
        "/api/v1/auth/login",
        content="".join([*parts, "--part--\r\n"]),
        headers={"Content-Type": "multipart/form-data; boundary=part; charset=utf-7"},
    )

    assert answer.status_code == 422


async def test_a_registration_with_an_unknown_field_is_refused(client: httpx2.AsyncClient) -> None:
    body = {"email": EMAIL, "password": PASSWORD, "scopes": ["admin"]}
    assert (await client.post("/api/v1/auth/register", json=body)).status_code == 422


@pytest.mark.parametrize("name", ["%00", "%ED%A0%80", "%FF", "x" * 255, "'; DROP TABLE accounts"])
async def test_a_login_with_a_malformed_name_is_refused(
    client: httpx2.AsyncClient, name: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"username={name}&password={name}"
    answer = await client.post("/api/v1/auth/login", content=body, headers=form)

    assert answer.status_code in (400, 401, 422)


async def test_addresses_are_case_insensitive(client: httpx2.AsyncClient, ada: str) -> None:
    again = await register(client, "Ada@EXAMPLE.com")
    right = await log_in(client, " ADA@example.COM ")
    other = await register(client, "Grace@EXAMPLE.com")

    assert again.status_code == 409
    assert right.is_success
    assert other.json()["email"] == "grace@example.com"


async def test_one_of_ten_concurrent_registrations_of_an_address_succeeds(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        answers = await asyncio.gather(*(register(client, EMAIL) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [201] + 9 * [409]


async def test_registration_can_be_closed(settings: Settings) -> None:
    closed = settings.model_copy(update={"registration_open": False})
    async with running_app(closed) as app, client_for(app) as client:
        answer = await register(client, EMAIL)

    assert answer.status_code == 403


async def test_registration_is_limited_by_client(fresh_settings: Settings) -> None:
    strict = fresh_settings.model_copy(update={"registration_limit": Rate(1, 3600)})
    async with running_app(strict) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        answers = [
            await register(client, email) for email in ("no address", EMAIL, "b@example.com")
        ]

    assert [answer.status_code for answer in answers] == [422, 201, 429]
    assert int(answers[-1].headers["Retry-After"]) == pytest.approx(3600, rel=0.1)


async def test_a_wrong_password_and_an_unknown_address_are_indistinguishable(
    client: httpx2.AsyncClient, ada: str, hashes: list[str]
) -> None:
    wrong = await log_in(client, EMAIL, WRONG_PASSWORD)
    work_for_wrong = hashes.copy()
    hashes.clear()
    unknown = await log_in(client, "nobody@example.com", WRONG_PASSWORD)
    work_for_unknown = hashes.copy()

    assert wrong.status_code == unknown.status_code == 401
    assert without_ids(wrong) == without_ids(unknown)
    assert work_for_wrong == ["verify"]
    assert work_for_unknown == ["hash"]  # the same work: verifying is hashing and comparing


def without_ids(answer: httpx2.Response) -> dict[str, Any]:
    return {k: v for k, v in answer.json().items() if k not in ("request_id", "trace_id")}


async def test_a_disabled_account_can_not_log_in(
    app: FastAPI, client: httpx2.AsyncClient, ada: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = await log_in(client, EMAIL, WRONG_PASSWORD)
    async with app.state.db.transaction() as db:
        await db.execute(update(Account).values(disabled_at=func.now()))
    disabled = await log_in(client, EMAIL)

    assert disabled.status_code == 401
    assert without_ids(disabled) == without_ids(wrong)
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    reasons = [line["reason"] for line in lines if line["event"] == "audit.login"]
    assert reasons == ["password", "disabled"]


async def test_a_password_is_hashed_again_when_the_costs_change(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    old = Argon2Hasher(time_cost=1, memory_cost=16, parallelism=1).hash(PASSWORD)
    async with app.state.db.transaction() as db:
        await db.execute(update(Account).values(password_hash=old))

    assert (await log_in(client, EMAIL)).is_success
    async with app.state.db.transaction() as db:
        stored = await db.scalar(select(Account.password_hash))
    settings: Settings = app.state.settings
    memory, passes = settings.argon2_memory_cost, settings.argon2_time_cost
    assert stored.startswith("$argon2id$")
    assert f"m={memory},t={passes},p={settings.argon2_parallelism}" in stored
    assert (await log_in(client, EMAIL)).is_success


async def test_the_audit_log_has_accounts_and_addresses_but_no_secrets(
    client: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    account_id = (await register(client, EMAIL)).json()["id"]
    await register(client, EMAIL)
    await log_in(client, EMAIL, WRONG_PASSWORD)
    await log_in(client, "nobody@example.com", WRONG_PASSWORD)
    for path in ("logout", "logout-all"):
        headers = await sign_in(client, EMAIL)
        await client.post(f"/api/v1/auth/{path}", headers=headers)

    output = capfd.readouterr().out
    lines = [json.loads(line) for line in output.splitlines()]
    audit = [line for line in lines if line["event"].startswith("audit.")]
    assert [(line["event"], line.get("reason"), line["subject"]) for line in audit] == [
        ("audit.register", None, account_id),
        ("audit.register", "taken", None),
        ("audit.login", "password", account_id),
        ("audit.login", "unknown", None),
        ("audit.register", "taken", None),
        ("audit.login", None, account_id),
        ("audit.logout", None, account_id),
        ("audit.register", "taken", None),
        ("audit.login", None, account_id),
        ("audit.logout_all", None, account_id),
    ]
    assert all(line["client_ip"] == "127.0.0.1" and line["request_id"] for line in audit)
    secrets = [PASSWORD, WRONG_PASSWORD, EMAIL, "nobody@", "$argon2", *headers.values()]
    assert [secret for secret in secrets if secret in output] == []
