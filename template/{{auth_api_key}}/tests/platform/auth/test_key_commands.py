"""The commands that manage keys, and the use of the keys that they create."""

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


async def test_a_key_is_created_rotated_and_revoked(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    assert keys(environment, "list", "--owner", "billing").stderr == "There are no such keys.\n"
    created = keys(
        environment, "create", "billing", "--scope", "a", "--scope", "b", "--expires", "7d"
    )
    key = created.stdout.strip()
    key_id = key.split("_")[1]
    assert (await me(client, key)).json() == {
        "id": "billing",
        "scopes": ["a", "b"],
        "key_id": key_id,
    }
    assert "cannot be shown again" in created.stderr

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


async def test_a_key_is_disabled_and_enabled(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    key = keys(environment, "create", "billing", "--scope", "a").stdout.strip()
    key_id = key.split("_")[1]
    disabled = keys(environment, "disable", key_id).stdout
    refused = await me(client, key)
    enabled = keys(environment, "enable", key_id).stdout

    assert f"{key_id}  billing  a  disabled 20" in disabled
    assert f"{key_id}  billing  a  expires 20" in enabled
    assert (refused.status_code, (await me(client, key)).status_code) == (401, 200)


def test_each_change_is_in_the_audit_log_once(environment: dict[str, str]) -> None:
    key = keys(environment, "create", "billing", "--scope", "a").stdout.split("_")[1]
    for task in ("disable", "disable", "enable", "rotate", "revoke", "revoke"):
        keys(environment, task, key)

    log = [line.split("  ") for line in keys(environment, "audit").stdout.splitlines()]
    assert [line[3] for line in reversed(log)] == [
        "key_create",
        "key_disable",
        "key_enable",
        "key_rotate",
        "key_revoke",
    ]
    assert all(line[2].startswith("command:") and line[4] == "billing" for line in log)
    assert all(f"key={key}" in line for line in log)
    shown = keys(environment, "show", key).stdout.splitlines()
    assert shown[0].startswith(f"{key}  billing  a  revoked 20")
    assert len(shown) == 6


async def test_a_key_expires_unless_created_with_expires_never(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    default = keys({**environment, "API_KEY_LIFETIME_DAYS": "1"}, "create", "one")
    forever = keys(environment, "create", "two", "--expires", "never")

    assert "expires 20" in default.stderr
    assert "expires never" in forever.stderr
    assert (await me(client, forever.stdout.strip())).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "Ada Lovelace"], "does not match"),
        (["create", "ada", "--scope", "two words"], "does not match"),
        (["create", "ada", "--expires", "soon"], "is not a duration; write it as 90d or 24h"),
        (["rotate", "f" * 16], "This key does not exist."),
        (["rotate", "f" * 16, "--overlap", "never"], "is not a duration"),
        (["revoke", "f" * 16], "This key does not exist."),
        (["show", "f" * 16], "This key does not exist."),
        (["disable", "f" * 16], "This key does not exist."),
        (["revoke"], "Give the id of a key, or --owner."),
    ],
)
def test_invalid_arguments_are_refused_with_a_reason(
    environment: dict[str, str], arguments: list[str], message: str
) -> None:
    done = keys(environment, *arguments)

    assert done.returncode != 0
    assert message in done.stderr
    assert done.stdout == ""
