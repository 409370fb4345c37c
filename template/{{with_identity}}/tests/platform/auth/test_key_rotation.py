"""A rotation of SECRET_KEY: credentials stay valid while the old key is a fallback."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from pydantic import SecretStr

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"
NEW = SecretStr(secrets.token_hex(32))


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(settings) as app, client_for(app) as client:
        yield client


async def test_credentials_survive_a_rotation_of_the_secret_key(module_settings: Settings) -> None:
    overlap = {"secret_key": NEW, "secret_key_fallbacks": module_settings.secret_key}
    async with serving(module_settings) as client:
        old = await sign_in(client, "ada@example.com")
    async with serving(module_settings.model_copy(update=overlap)) as client:
        with_old = await client.get(ME, headers=old)
        new = await sign_in(client, "ada@example.com")
    async with serving(module_settings.model_copy(update={"secret_key": NEW})) as client:
        with_new = await client.get(ME, headers=new)

    assert with_old.status_code == with_new.status_code == 200
