"""Uploads of an account are exported and deleted with it."""

import httpx2
from fastapi import FastAPI
from sqlalchemy import select

from app.platform.data import uploads
from app.platform.data.uploads import Upload
from tests.accounts import AUTH, PASSWORD, post
from tests.actors import sign_in


async def test_uploads_are_exported_and_deleted_with_the_account_of_their_owner(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    alice = await sign_in(client, "alice@example.com")
    bob = await sign_in(client, "bob@example.com")
    for headers, name in ((alice, "letter.pdf"), (bob, "photo.png")):
        owner = (await client.get(f"{AUTH}/me", headers=headers)).json()["id"]
        async with app.state.db.transaction() as session:
            await uploads.add(session, owner, "orders:7", name, 10)
    exported = (await client.get(f"{AUTH}/export", headers=alice)).json()["features"]["uploads"]
    deleted = await post(client, "delete-account", alice, password=PASSWORD)

    assert [upload["name"] for upload in exported] == ["letter.pdf"]
    assert deleted.status_code == 204
    async with app.state.db.transaction() as session:
        rows = await session.execute(select(Upload.name, Upload.state))
    states = {row.name: row.state for row in rows}
    assert states == {"letter.pdf": "deleted", "photo.png": "pending"}
