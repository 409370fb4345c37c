"""The API document, and the page that shows it: from local files, and not in production."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

from app.errors import Problem
from app.settings import Settings

ASSETS = "/docs/assets"
# What the page needs beyond nothing: its own files, the script and styles in it, and this API.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


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


def install(app: FastAPI, settings: Settings) -> None:
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.add_api_route("/openapi.json", app.openapi, include_in_schema=False)
    if settings.environment == "production":
        return
    app.mount(ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
    )

    page.headers["Content-Security-Policy"] = PAGE_POLICY

    async def docs() -> HTMLResponse:
        return page

    app.add_api_route("/docs", docs, include_in_schema=False)
