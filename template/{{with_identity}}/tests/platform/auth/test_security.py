"""Guarantees of every auth style.

``tests/actors.py`` provides: ``sign_in`` and ``sign_in_with``, which return a header
``Authorization: Bearer <credential>``; ``hostile_credentials``, invalid ones derived from a valid
one; and ``REVOCATIONS``, all the ways to revoke one.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.settings.rates import Rate
from app.settings import Settings
from tests.actors import REVOCATIONS, hostile_credentials, sign_in
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"
NO_SUCH_ID = "00000000-0000-0000-0000-000000000000"
PROBE_PATHS = ("/health/live", "/health/ready", "/health/startup", "/metrics")
PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


def credential_of(caller: httpx2.AsyncClient) -> str:
    return caller.headers["Authorization"].removeprefix("Bearer ")


def mangled(good: str) -> dict[str, str]:
    """Malformed credentials of every style, derived from a valid one."""
    middle = len(good) // 2
    other = "a" if good[middle] != "a" else "b"
    return {
        "cut off": good[:-2],
        "cut in half": good[:middle],
        "with more behind": good + "AAAA",
        "with more before": "AAAA" + good,
        "one character changed": good[:middle] + other + good[middle + 1 :],
        "two of them": f"{good} {good}",
        "a list of them": f"{good}, {good}",
        "garbage": "garbage",
        "dots": "..",
        "not ASCII": "é.é.é",
        "a NUL": "\0",
        "a NUL behind": good + "\0",
        "SQL": "' OR 1=1 --",
        "a wildcard": "%",
        "very long": "a" * 50_000,
    }


def bearer(credential: str) -> dict[bytes, bytes]:
    return {b"Authorization": b"Bearer " + credential.encode("latin-1")}


def is_refusal(answer: httpx2.Response, challenge: str) -> bool:
    """Whether this is the response to invalid or missing credentials."""
    return (
        answer.status_code == 401
        and answer.headers["Content-Type"] == "application/problem+json"
        and answer.headers["WWW-Authenticate"] == challenge
        and set(answer.json()) - {"trace_id"} == PROBLEM
        and answer.json()["code"] == "unauthorized"
        and "Set-Cookie" not in answer.headers
    )


async def test_an_invalid_credential_is_refused_audited_and_not_logged(
    app: FastAPI,
    client: httpx2.AsyncClient,
    alice: httpx2.AsyncClient,
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = credential_of(alice)
    assert (await client.get(ME, headers=bearer(good))).is_success
    hostile = mangled(good) | await hostile_credentials(app, good)
    capfd.readouterr()
    answers = {name: await client.get(ME, headers=bearer(h)) for name, h in hostile.items()}
    app.state.access_log.flush()
    output = capfd.readouterr().out

    challenge = 'Bearer error="invalid_token"'
    wrong = {name: a.status_code for name, a in answers.items() if not is_refusal(a, challenge)}
    assert wrong == {}
    events = [line for line in lines(output) if line["event"] == "audit.authenticate"]
    assert len(events) == len(hostile)
    assert {line["logger"] for line in events} == {"app.audit"}
    assert all(line["reason"] and line["client_ip"] and line["request_id"] for line in events)
    assert [name for name, h in hostile.items() if len(h) > 8 and h in output] == []
    assert (await alice.get(ME)).is_success  # her session is not affected


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "bearer"])
async def test_a_request_without_a_credential_gets_a_challenge(
    client: httpx2.AsyncClient, header: str | None
) -> None:
    answer = await client.get(ME, headers={"Authorization": header} if header is not None else {})

    assert is_refusal(answer, "Bearer")


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "Token", "Negotiate", "", "BearerBearer"])
async def test_a_credential_of_another_scheme_is_ignored(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient, scheme: str
) -> None:
    header = f"{scheme} {credential_of(alice)}".strip()

    assert is_refusal(await client.get(ME, headers={"Authorization": header}), "Bearer")


@pytest.mark.parametrize(
    "name", ["access_token", "token", "api_key", "key", "session", "session_id", "Authorization"]
)
async def test_a_credential_in_the_query_is_ignored(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient, name: str
) -> None:
    good = credential_of(alice)

    assert is_refusal(await client.get(ME, params={name: good}), "Bearer")
    assert is_refusal(await client.get(ME, params={name: f"Bearer {good}"}), "Bearer")


@pytest.mark.parametrize("revoke", REVOCATIONS.values(), ids=REVOCATIONS.keys())
async def test_a_revoked_credential_is_refused_immediately(
    app: FastAPI, bob: httpx2.AsyncClient, revoke: Any
) -> None:
    async with client_for(app) as client:
        headers = await sign_in(client, "carol@example.com")
        before = await client.get(ME, headers=headers)
        await revoke(app, client, "carol@example.com", headers)
        after = await client.get(ME, headers=headers)

    assert before.status_code == 200
    assert is_refusal(after, 'Bearer error="invalid_token"')
    assert (await bob.get(ME)).is_success


async def test_guessing_credentials_is_rate_limited(settings: Settings) -> None:
    strict = settings.model_copy(update={"rate_limit": Rate(3, 60)})
    async with running_app(strict) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        tries = [await client.get(ME, headers=bearer(f"guess-{n}")) for n in range(4)]

    assert [answer.status_code for answer in tries] == [401, 401, 401, 429]
    assert int(tries[-1].headers["Retry-After"]) == pytest.approx(20, rel=0.5)


@pytest.mark.parametrize("header", [None, "Bearer garbage"])
@pytest.mark.parametrize("path", PROBE_PATHS)
async def test_probes_and_metrics_need_no_credential(
    client: httpx2.AsyncClient, path: str, header: str | None
) -> None:
    answer = await client.get(path, headers={"Authorization": header} if header else {})

    assert answer.status_code == 200


def guarded(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Method and path of each operation with a security requirement."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation.get("security"):
                yield method, path


async def test_every_operation_with_a_security_requirement_enforces_it(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    found = list(guarded(app.openapi()))
    answers = {(method, path): await client.request(method, filled(path)) for method, path in found}

    assert ("get", ME) in answers
    assert [route for route, answer in answers.items() if not is_refusal(answer, "Bearer")] == []


def filled(path: str) -> str:
    return "/".join(NO_SUCH_ID if "{" in part else part for part in path.split("/"))


async def test_the_log_has_the_callers_id_but_no_credential(
    app: FastAPI, alice: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    app.state.access_log.flush()
    capfd.readouterr()
    me = (await alice.get(ME)).json()
    app.state.access_log.flush()
    output = capfd.readouterr().out

    [line] = [line for line in lines(output) if line["event"] == "request"]
    assert line["user_id"] == me["id"]
    assert credential_of(alice) not in output
    assert "alice@example.com" not in output
