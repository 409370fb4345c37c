"""How a test becomes somebody, and how somebody tries to pass for another."""

from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy import URL

from app.platform.auth import tickets


async def seed(database: URL) -> None:
    """No seed data needed."""


def _headers(ticket: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {ticket}"}


async def sign_in(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    answer = await client.post("/api/v1/auth/tickets", json={"name": email})
    answer.raise_for_status()
    return _headers(answer.json())


async def sign_in_with(
    app: FastAPI, client: httpx2.AsyncClient, email: str, *scopes: str
) -> dict[str, str]:
    return _headers(tickets.write(app.state.settings, email, *scopes))


async def hostile_credentials(app: FastAPI, good: str) -> dict[str, str]:
    settings = app.state.settings
    other = settings.model_copy(update={"secret_key": type(settings.secret_key)("x" * 64)})
    return {
        "expired": tickets.write(settings, "alice@example.com", ends_in=-1),
        "of another service": tickets.write(other, "alice@example.com"),
    }


async def _log_out(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Any) -> None:
    (await client.post("/api/v1/auth/logout", headers=headers)).raise_for_status()


REVOCATIONS = {"logout": _log_out}
