"""A rotated login: the file that holds the database's URL is read again for new connections."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.base.errors import DatabaseUnavailable
from app.platform.data.database import SessionDep
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_app
from tests.platform.data.test_pool import open_engine


@pytest.fixture
async def roles(module_settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Two users of Postgres: only the second may still log in."""
    url = make_url(module_settings.database_url.get_secret_value())
    old, new = (f"rotated_{secrets.token_hex(4)}" for _ in range(2))
    async with open_connection(url, isolation_level="AUTOCOMMIT") as admin:
        await admin.execute(text(f"CREATE ROLE {old} NOLOGIN"))
        await admin.execute(text(f"CREATE ROLE {new} LOGIN"))
        yield old, new
        await admin.execute(text(f"DROP ROLE {old}, {new}"))


def url_of(settings: Settings, role: str) -> str:
    url = make_url(settings.database_url.get_secret_value())
    return url.set(username=role).render_as_string(hide_password=False)


async def current_user(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.scalar(text("SELECT current_user")))


async def test_new_connections_use_the_login_that_the_file_holds_now(
    module_settings: Settings,
    roles: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = (url_of(module_settings, role) for role in roles)
    file = tmp_path / "url"
    file.write_text(old.replace("+asyncpg", ""))
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    async with open_engine(module_settings, database_url=SecretStr(old)) as engine:
        with pytest.raises(DatabaseUnavailable):
            await current_user(engine)
        file.write_text(f"{new}\n")
        assert await current_user(engine) == roles[1]
        await engine.dispose()
        for unreadable in ("", "postgresql://[", None):
            file.unlink() if unreadable is None else file.write_text(unreadable)
            with pytest.raises(DatabaseUnavailable):  # the login of the start again
                await current_user(engine)


async def test_a_url_that_is_not_from_the_file_does_not_follow_it(
    module_settings: Settings,
    roles: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "url"
    file.write_text(url_of(module_settings, roles[0]))
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    url = SecretStr(url_of(module_settings, roles[1]))
    async with open_engine(module_settings, database_url=url) as engine:
        assert await current_user(engine) == roles[1]


async def test_a_refused_login_is_an_outage(
    module_settings: Settings, roles: tuple[str, str]
) -> None:
    changes = {"database_url": SecretStr(url_of(module_settings, roles[0]))}
    async with running_app(module_settings.model_copy(update=changes)) as app:

        async def select(session: SessionDep) -> None:
            await session.execute(text("SELECT 1"))

        app.add_api_route("/select", select)
        async with client_for(app) as client:
            response = await client.get("/select")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
