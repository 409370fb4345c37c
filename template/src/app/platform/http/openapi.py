"""The API document, and the page that shows it: from local files, and not in production."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

from app.platform.http.problems import Problem
from app.platform.settings import PlatformSettings

ASSETS = "/docs/assets"
REDIRECT = "/docs/oauth2-redirect"
# What the page needs beyond nothing: its own files, the script and styles in it, and this API.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Login:
    """How a person signs in on the page with somebody else's login: OAuth 2, with PKCE.

    A part leaves it in ``app.state.docs_login``. ``origin`` is where the tokens come from, and
    ``parameters`` are added to the address of the login page.
    """

    client_id: str
    origin: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem.pop("$defs"), "Problem": problem}
        # The framework's own error schemas, which this service never answers with.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
    assert app.openapi_schema
    return app.openapi_schema


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.add_api_route("/openapi.json", app.openapi, include_in_schema=False)
    if settings.environment == "production":
        return
    app.mount(ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    login: Login | None = getattr(app.state, "docs_login", None)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
        oauth2_redirect_url=REDIRECT if login else None,
        init_oauth=_oauth(login) if login else None,
    )
    connect = f"connect-src 'self' {login.origin}" if login else "connect-src 'self'"
    _serve(app, "/docs", page.body, PAGE_POLICY.replace("connect-src 'self'", connect))
    if login:  # where the provider sends people back to, and what hands over the code
        _serve(app, REDIRECT, get_swagger_ui_oauth2_redirect_html().body, PAGE_POLICY)


def _serve(app: FastAPI, path: str, body: bytes | memoryview, policy: str) -> None:
    async def page() -> HTMLResponse:
        # A new one each time: compression changes the headers of the response that it is given.
        return HTMLResponse(bytes(body), headers={"Content-Security-Policy": policy})

    app.add_api_route(path, page, include_in_schema=False)


def _oauth(login: Login) -> dict[str, Any]:
    """What the page is told, in the names that it has for it."""
    return {
        "clientId": login.client_id,
        "usePkceWithAuthorizationCodeGrant": True,
        "additionalQueryStringParams": dict(login.parameters),
    }
