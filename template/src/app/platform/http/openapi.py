"""The OpenAPI document, and Swagger UI from local files (not in production)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

from app.platform.http.openapi_headers import describe_headers
from app.platform.http.problems import Problem
from app.platform.settings import PlatformSettings

ASSETS_PATH = "/docs/assets"
OAUTH_REDIRECT_PATH = "/docs/oauth2-redirect"
# The Content-Security-Policy of Swagger UI: its own files, inline script and styles, and this API.
SWAGGER_CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class SwaggerOAuth:
    """Login in Swagger UI by OAuth 2 with PKCE; a component sets ``app.state.swagger_oauth``.

    ``origin``: of the token endpoint. ``parameters``: added to the authorization request.
    """

    client_id: str
    origin: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def openapi_schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, generated once."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem.pop("$defs"), "Problem": problem}
        # FastAPI's own error schemas: no response of this service has them.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        describe_headers(app, document)
    assert app.openapi_schema
    return app.openapi_schema


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.openapi = lambda: openapi_schema(app)  # type: ignore[method-assign]
    app.add_api_route("/openapi.json", app.openapi, include_in_schema=False)
    if settings.is_deployed:
        return
    app.mount(ASSETS_PATH, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    oauth: SwaggerOAuth | None = getattr(app.state, "swagger_oauth", None)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_PATH}/favicon.png",
        oauth2_redirect_url=OAUTH_REDIRECT_PATH if oauth else None,
        init_oauth=_init_oauth(oauth) if oauth else None,
    )
    connect = f"connect-src 'self' {oauth.origin}" if oauth else "connect-src 'self'"
    _add_page(app, "/docs", page.body, SWAGGER_CSP.replace("connect-src 'self'", connect))
    if oauth:  # the redirect URI: it passes the authorization code to the page
        redirect = get_swagger_ui_oauth2_redirect_html()
        _add_page(app, OAUTH_REDIRECT_PATH, redirect.body, SWAGGER_CSP)


def _add_page(app: FastAPI, path: str, body: bytes | memoryview, csp: str) -> None:
    async def page() -> HTMLResponse:
        # A new response each time: the compression middleware modifies its headers.
        return HTMLResponse(bytes(body), headers={"Content-Security-Policy": csp})

    app.add_api_route(path, page, include_in_schema=False)


def _init_oauth(oauth: SwaggerOAuth) -> dict[str, Any]:
    """The options of Swagger UI's ``initOAuth``."""
    return {
        "clientId": oauth.client_id,
        "usePkceWithAuthorizationCodeGrant": True,
        "additionalQueryStringParams": dict(oauth.parameters),
    }
