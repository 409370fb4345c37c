"""A rotated login: the file that holds a server's URL is read again for new connections."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import AuthenticationError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.base.errors import DatabaseUnavailable
from app.platform.data.credentials import redis_login
from app.platform.data.database import SessionDep
from app.platform.data.redis import create_client
from app.platform.settings import offline_settings
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform
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


@pytest.mark.parametrize("variable", ["DATABASE_URL_FILE", "DATABASE_REPLICA_URL_FILE"])
async def test_new_connections_use_the_login_that_the_file_holds_now(
    module_settings: Settings,
    roles: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    old, new = (url_of(module_settings, role) for role in roles)
    file = tmp_path / "url"
    file.write_text(old.replace("+asyncpg", ""))
    monkeypatch.setenv(variable, str(file))
    offline_settings(Settings)  # reads the file, as the start does
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
    file.write_text(new)  # before the process, or this part of it, started once more
    async with open_engine(module_settings, database_url=SecretStr(old)) as engine:
        assert await current_user(engine) == roles[1]


async def test_the_parameters_of_libpq_in_a_rotated_url_are_those_of_asyncpg(
    module_settings: Settings,
    roles: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = (url_of(module_settings, role) for role in roles)
    file = tmp_path / "url"
    file.write_text(f"{old}?sslmode=disable")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    offline_settings(Settings)  # reads the file, as the start does
    url = SecretStr(f"{old}?ssl=disable")
    async with open_engine(module_settings, database_url=url) as engine:
        file.write_text(f"{new}?sslmode=disable")
        assert await current_user(engine) == roles[1]


async def test_a_url_that_is_not_from_the_file_does_not_follow_it(
    module_settings: Settings,
    roles: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "url"
    file.write_text(url_of(module_settings, roles[0]))
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    offline_settings(Settings)  # reads the file, as the start does
    url = SecretStr(url_of(module_settings, roles[1]))
    async with open_engine(module_settings, database_url=url) as engine:
        assert await current_user(engine) == roles[1]


async def test_a_refused_login_is_an_outage(
    module_settings: Settings, roles: tuple[str, str]
) -> None:
    changes = {"database_url": SecretStr(url_of(module_settings, roles[0]))}
    async with running_platform(module_settings.model_copy(update=changes)) as app:

        async def select(session: SessionDep) -> None:
            await session.execute(text("SELECT 1"))

        app.add_api_route("/select", select)
        async with client_for(app) as client:
            response = await client.get("/select")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


async def test_new_connections_use_the_login_of_redis_that_the_file_holds_now(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, file = f"rotated_{secrets.token_hex(4)}", tmp_path / "url"
    url = settings.redis_url.get_secret_value()
    old, new = (url.replace("://", f"://{user}:{password}@") for password in ("a%2Fb", "c%25d"))
    monkeypatch.setenv("REDIS_URL_FILE", str(file))
    file.write_text(old)
    offline_settings(Settings)  # reads the file, as the start does
    follows = settings.model_copy(update={"redis_url": SecretStr(old)})
    async with create_client(settings) as admin, create_client(follows) as client:
        await admin.acl_setuser(
            user, enabled=True, passwords=["+a/b"], keys=["*"], categories=["+@all"]
        )
        try:
            assert await client.acl_whoami() == user
            await admin.acl_setuser(user, enabled=True, passwords=["-a/b", "+c%d"])
            file.write_text(f"{new}\n")
            await client.connection_pool.disconnect()
            assert await client.acl_whoami() == user
            async with create_client(follows) as later:
                assert await later.acl_whoami() == user
            for unreadable in ("", "redis://[", "redis://host", None):
                file.unlink() if unreadable is None else file.write_text(unreadable)
                await client.connection_pool.disconnect()
                with pytest.raises(AuthenticationError):  # the login of the start again
                    await client.ping()
        finally:
            await admin.acl_deluser(user)


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("redis://:secret@host:6380/1", "redis://host:6380/1"),
        ("rediss://user:p%40ss@[::1]:6380?ssl_cert_reqs=none&password=x", None),
        ("unix://user@/run/redis.sock?db=2&password=secret", "unix:///run/redis.sock?db=2"),
    ],
)
def test_an_address_without_its_login_is_the_same_address(
    url: str, bare: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(url)
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    offline_settings(Settings)  # reads the file, as the start does
    address, login = redis_login(url)
    assert login is not None
    assert address == (bare or "rediss://[::1]:6380?ssl_cert_reqs=none")


def test_a_login_of_redis_that_is_not_from_the_file_does_not_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("redis://:other@host/0")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    offline_settings(Settings)  # reads the file, as the start does
    assert redis_login("redis://:secret@host/0") == ("redis://:secret@host/0", None)
    assert redis_login("redis://host/0") == ("redis://host/0", None)
