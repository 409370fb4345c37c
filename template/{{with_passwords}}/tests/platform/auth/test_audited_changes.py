"""What owners do to their accounts is in the audit log."""

from uuid import UUID

import httpx2
from fastapi import FastAPI

from app.platform.auth import audit_log
from tests.accounts import AUTH, PASSWORD, log_in, post
from tests.actors import sign_in
from tests.mail import link_token, mails_to

ADA, NEW = "ada@example.com", "ada@example.org"
OTHER_PASSWORD = "another horse battery"


async def actions(app: FastAPI, account_id: str) -> list[str]:
    """The actions of an owner on their account, oldest first."""
    async with app.state.db.transaction() as db:
        events = await audit_log.list_events(db, 100, account_id)
    assert {event.actor for event in events} <= {account_id}
    return [event.action for event in reversed(events)]


async def id_of(client: httpx2.AsyncClient, headers: dict[str, str]) -> str:
    return str(UUID((await client.get(f"{AUTH}/me", headers=headers)).json()["id"]))


async def token_in(app: FastAPI, email: str, subject: str) -> str:
    """The token in the mail with this subject."""
    [found] = [mail for mail in await mails_to(app, email) if subject in mail["Subject"]]
    return link_token(found)


async def test_changes_of_passwords_and_addresses_are_recorded(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in(client, ADA)
    owner = await id_of(client, headers)
    await post(client, "verify-email", token=await token_in(app, ADA, "Confirm your e-mail"))
    await post(client, "change-password", headers, password=PASSWORD, new_password=OTHER_PASSWORD)
    await post(client, "change-email", headers, password=OTHER_PASSWORD, email=NEW)
    await post(client, "confirm-email", token=await token_in(app, NEW, "Confirm your new"))
    await post(client, "forgot-password", email=NEW)
    token = await token_in(app, NEW, "Choose a new password")
    await post(client, "reset-password", token=token, new_password=PASSWORD)

    assert await actions(app, owner) == [
        "verify_email",
        "change_password",
        "change_email",
        "reset_password",
    ]


async def test_a_refused_change_is_not_recorded(app: FastAPI, client: httpx2.AsyncClient) -> None:
    headers = await sign_in(client, ADA)
    body = {"password": "a wrong password", "new_password": OTHER_PASSWORD}
    answer = await post(client, "change-password", headers, **body)

    assert answer.status_code == 403
    assert await actions(app, await id_of(client, headers)) == []


async def test_ends_of_sessions_and_of_the_account_are_recorded(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in(client, ADA)
    owner = await id_of(client, headers)
    await sign_in(client, ADA)
    sessions = (await client.get(f"{AUTH}/sessions", headers=headers)).json()
    other = next(each["id"] for each in sessions if not each["current"])
    await client.delete(f"{AUTH}/sessions/{other}", headers=headers)
    await client.post(f"{AUTH}/logout-all", headers=headers)
    headers = await sign_in(client, ADA)
    exported = (await client.get(f"{AUTH}/export", headers=headers)).json()["events"]
    await post(client, "delete-account", headers, password=PASSWORD)

    assert await actions(app, owner) == ["end_session", "logout_all", "delete_account"]
    assert [event["action"] for event in exported] == ["logout_all", "end_session"]


async def test_a_login_from_a_new_client_is_recorded(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in(client, ADA)
    transport = httpx2.ASGITransport(app, client=("192.0.2.7", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as elsewhere:
        assert (await log_in(elsewhere, ADA)).is_success

    assert await actions(app, await id_of(client, headers)) == ["login_new_client"]
