"""The OpenAPI document, and Swagger UI from local files; ``DOCS`` says who may read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, params
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse, JSONResponse

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
# Asks for a token if the browser has no session that may read the document.
ASK_ADMIN = """
let token;
async function withToken(request) {
  if (!request.loadSpec) return request;
  if (!token && !(await fetch(request.url)).ok)
    token = prompt("Access token or API key of a caller with the scope admin:");
  if (token) request.headers.Authorization = `Bearer ${token}`;
  return request;
}
"""


class Tag(str):
    """A tag with its description in the OpenAPI document: ``tags=[Tag("orders", "Orders.")]``."""

    __slots__ = ("description",)
    description: str

    def __new__(cls, name: str, description: str) -> "Tag":
        tag = super().__new__(cls, name)
        tag.description = description
        return tag


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
        document.setdefault("servers", [{"url": "/"}])
        document["tags"] = _tags(app)
    assert app.openapi_schema
    return app.openapi_schema


def _tags(app: FastAPI) -> list[dict[str, str]]:
    """The tags that have a description, in the order of their routes."""
    used = {
        str(tag): tag.description
        for context in iter_route_contexts(app.router.routes)
        for tag in getattr(context, "tags", ())
        if isinstance(tag, Tag)
    }
    return [{"name": name, "description": description} for name, description in used.items()]


def protect(app: FastAPI, dependency: params.Depends) -> None:
    """Set the dependency that refuses callers who are no admin, for ``DOCS=admin``."""
    app.state.docs_protection = dependency


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.openapi = lambda: openapi_schema(app)  # type: ignore[method-assign]
    access = settings.docs_access
    if access == "off":
        return
    # Without the dependency, the service does not start.
    protection = [app.state.docs_protection] if access == "admin" else []

    async def document(request: Request) -> JSONResponse:
        content = _below(request.scope.get("root_path", ""), request.app.openapi())
        return JSONResponse(content, headers={"Cache-Control": "no-store"} if protection else None)

    app.add_api_route("/openapi.json", document, include_in_schema=False, dependencies=protection)
    app.mount(ASSETS_PATH, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    oauth: SwaggerOAuth | None = getattr(app.state, "swagger_oauth", None)
    connect = f"connect-src 'self' {oauth.origin}" if oauth else "connect-src 'self'"
    policy = SWAGGER_CSP.replace("connect-src 'self'", connect)

    async def page(request: Request) -> HTMLResponse:
        prefix = request.scope.get("root_path", "")
        html = get_swagger_ui_html(
            openapi_url=f"{prefix}/openapi.json",
            title=request.app.title,
            swagger_js_url=f"{prefix}{ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}{ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{prefix}{ASSETS_PATH}/favicon.png",
            oauth2_redirect_url=prefix + OAUTH_REDIRECT_PATH if oauth else None,
            init_oauth=_init_oauth(oauth) if oauth else None,
        )
        if protection:
            html = _asking_for_token(html)
        html.headers["Content-Security-Policy"] = policy
        return html

    app.add_api_route("/docs", page, include_in_schema=False)
    if oauth:  # the redirect URI: it passes the authorization code to the page
        app.add_api_route(OAUTH_REDIRECT_PATH, _oauth_redirect, include_in_schema=False)


def _asking_for_token(page: HTMLResponse) -> HTMLResponse:
    """The page for a document that needs authentication; the page itself tells nothing."""
    start = "const ui = SwaggerUIBundle({"
    text = bytes(page.body).decode()
    return HTMLResponse(
        text.replace(start, f"{ASK_ADMIN}{start}\nrequestInterceptor: withToken,", 1)
    )


async def _oauth_redirect() -> HTMLResponse:
    html = get_swagger_ui_oauth2_redirect_html()
    html.headers["Content-Security-Policy"] = SWAGGER_CSP
    return html


def _below(prefix: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document for clients that reach this service under a path prefix."""
    if not prefix:
        return document
    components = {**document["components"]}
    if "securitySchemes" in components:
        components["securitySchemes"] = _prefixed(prefix, components["securitySchemes"])
    return {**document, "servers": [{"url": prefix}], "components": components}


def _prefixed(prefix: str, value: Any) -> Any:
    """A copy of security schemes, with the prefix before the URLs that are paths."""
    if isinstance(value, dict):
        return {
            name: prefix + each
            if name.endswith("Url") and str(each).startswith("/")
            else _prefixed(prefix, each)
            for name, each in value.items()
        }
    return value


def _init_oauth(oauth: SwaggerOAuth) -> dict[str, Any]:
    """The options of Swagger UI's ``initOAuth``."""
    return {
        "clientId": oauth.client_id,
        "usePkceWithAuthorizationCodeGrant": True,
        "additionalQueryStringParams": dict(oauth.parameters),
    }
