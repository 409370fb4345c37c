"""Sign-in for tests: none is needed."""

import httpx2
from fastapi import FastAPI
from sqlalchemy import URL


async def seed(database: URL) -> None:
    """No seed data needed."""


async def sign_in(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """No header: every caller is the same."""
    return {}


async def smoke_credentials(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """The variables of ``deploy/login.sh``."""
    return {}


async def sign_in_with(
    app: FastAPI, client: httpx2.AsyncClient, email: str, *scopes: str
) -> dict[str, str]:
    """Everybody may do everything."""
    return {}
