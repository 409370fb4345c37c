"""The example of a second version of the API, as docs/contract.md describes it.

It is here and not in ``app.items``: a new service has nothing to be compatible with.
"""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from fastapi import APIRouter

from app import api
from app.auth import CurrentUser
from app.items import service
from app.platform.data.database import ReadSessionDep
from app.platform.http.schemas import ResponseModel
from app.platform.http.versioning import Deprecation, Version
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app

items_v2 = APIRouter(prefix="/items", tags=["items"])


class ItemReadV2(ResponseModel):
    """In version 2, an item has a title in place of its name."""

    id: UUID
    title: str


@items_v2.get("/{item_id:uuid}")
async def get_item(item_id: UUID, user: CurrentUser, session: ReadSessionDep) -> ItemReadV2:
    item = await service.get_item(session, user.id, item_id)
    return ItemReadV2(id=item.id, title=item.name)


async def test_both_versions_answer_with_the_same_item_in_their_own_form(
    fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deprecation = Deprecation(
        since=datetime(2026, 3, 1, tzinfo=UTC),
        sunset=datetime(2027, 3, 1, tzinfo=UTC),
        successor="/api/v2",
    )
    routers = api.VERSIONS[0].routers
    versions = (Version("v1", routers, deprecation), Version("v2", (items_v2,)))
    monkeypatch.setattr(api, "VERSIONS", versions)
    async with running_app(fresh_settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "versions@example.com"))
        created = await client.post("/api/v1/items", json={"name": "Anchor"})
        url = created.headers["Location"]
        old, new = await client.get(url), await client.get(url.replace("/v1/", "/v2/"))
        assert (old.json()["name"], new.json()["title"]) == ("Anchor", "Anchor")
        assert old.headers["Sunset"] == "Mon, 01 Mar 2027 00:00:00 GMT"
        assert "Sunset" not in new.headers
        paths = app.openapi()["paths"]
    operations = [paths[f"/api/{v}/items/{{item_id}}"]["get"]["operationId"] for v in ("v1", "v2")]
    assert operations == ["get_item", "get_item_v2"]
