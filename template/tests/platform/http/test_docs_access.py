"""Who may read the docs page and the OpenAPI document: ``DOCS``."""

from importlib.resources import files

import httpx2
import pytest

from app.platform.settings import SettingsError
from app.settings import Settings, get_settings
from tests.actors import sign_in, sign_in_with
from tests.conftest import client_for, running_app
from tests.required import REQUIRED

PATHS = ("/docs", "/docs/assets/swagger-ui.css", "/openapi.json")


def accepted() -> str | None:
    """The value of ``DOCS``, or nothing if it is refused because this service knows no callers."""
    try:
        return get_settings().docs_access
    except SettingsError as error:
        return None if "DOCS: admin needs authenticated callers" in str(error) else "admin"


async def statuses(client: httpx2.AsyncClient, **headers: str) -> list[int]:
    return [(await client.get(path, headers=headers)).status_code for path in PATHS]


@pytest.mark.parametrize(
    ("environment", "docs", "expected"),
    [
        ("production", None, 404),
        ("staging", None, 404),
        ("test", None, 200),
        ("test", "off", 404),
        ("production", "open", 200),
    ],
)
async def test_page_and_document_are_served_together(
    settings: Settings, environment: str, docs: str | None, expected: int
) -> None:
    changed = settings.model_copy(update={"environment": environment, "docs": docs})
    async with running_app(changed) as app, client_for(app) as client:
        assert await statuses(client) == [expected] * 3


async def test_the_document_is_for_admins(
    module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (REQUIRED | {"DOCS": "admin"}).items():
        monkeypatch.setenv(name, value)
    if accepted() is None:
        return
    changed = module_settings.model_copy(update={"docs": "admin"})
    async with running_app(changed) as app, client_for(app) as client:
        admin = await sign_in_with(app, client, "admin@example.com", "admin")
        other = await sign_in(client, "ada@example.com")
        client.cookies.clear()
        anonymous = await client.get("/openapi.json")
        assert anonymous.status_code == 401
        assert anonymous.headers["Content-Type"] == "application/problem+json"
        assert (await client.get("/openapi.json", headers=other)).status_code == 403
        document = await client.get("/openapi.json", headers=admin)
        page = await client.get("/docs")
    assert document.json()["openapi"].startswith("3.")
    assert document.headers["Cache-Control"] == "no-store"
    assert "requestInterceptor: withToken" in page.text
    # The page asks for a token when Swagger UI loads the document, which its bundle marks so.
    bundle = files("fastapi_offline") / "static" / "swagger-ui-bundle.js"
    assert "loadSpec:!0" in bundle.read_text(encoding="utf-8")
