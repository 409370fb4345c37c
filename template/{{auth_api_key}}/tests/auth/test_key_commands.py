"""The commands of the keys, and what they make, as callers use it."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.settings import Settings
from tests.commands import CommandResult, run_command
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"


def keys(env: dict[str, str], *arguments: str) -> CommandResult:
    return run_command("keys", *arguments, env=env)


@pytest.fixture
async def client(fresh_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        yield client


async def me(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await client.get(ME, headers={"Authorization": f"Bearer {key}"})


async def test_a_key_is_made_replaced_and_ended(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    made = keys(environment, "create", "billing", "--scope", "a", "--scope", "b", "--expires", "7d")
    key = made.stdout.strip()
    key_id = key.split("_")[1]
    assert (await me(client, key)).json() == {
        "id": "billing",
        "scopes": ["a", "b"],
        "key_id": key_id,
    }
    assert "shown this once" in made.stderr

    listed = keys(environment, "list", "--owner", "billing").stdout
    assert f"{key_id}  billing  a b  expires " in listed
    assert key not in listed

    second = keys(environment, "rotate", key_id, "--overlap", "1h").stdout.strip()
    assert (await me(client, second)).json()["scopes"] == ["a", "b"]
    assert (await me(client, key)).status_code == 200

    assert keys(environment, "revoke", key_id).stdout == "1 revoked.\n"
    assert (await me(client, key)).status_code == 401
    assert (await me(client, second)).status_code == 200
    assert keys(environment, "revoke", "--owner", "billing").stdout == "1 revoked.\n"
    assert (await me(client, second)).status_code == 401


async def test_a_key_expires_unless_it_is_made_to_last(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    usual = keys({**environment, "API_KEY_LIFETIME_DAYS": "1"}, "create", "one")
    forever = keys(environment, "create", "two", "--expires", "never")

    assert "expires 20" in usual.stderr
    assert "expires never" in forever.stderr
    assert (await me(client, forever.stdout.strip())).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create", "Ada Lovelace"], "does not match"),
        (["create", "ada", "--scope", "two words"], "does not match"),
        (["create", "ada", "--expires", "soon"], "is no duration; write it as 90d or 24h"),
        (["rotate", "f" * 16], "There is no such key."),
        (["rotate", "f" * 16, "--overlap", "never"], "is no duration"),
        (["revoke", "f" * 16], "There is no such key."),
        (["revoke"], "Give the id of one key, or --owner."),
    ],
)
def test_what_can_not_be_done_is_said(
    environment: dict[str, str], arguments: list[str], complaint: str
) -> None:
    done = keys(environment, *arguments)

    assert done.returncode != 0
    assert complaint in done.stderr
    assert done.stdout == ""
