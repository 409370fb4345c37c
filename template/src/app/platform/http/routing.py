"""A route index: finds a route by the first segments of its path instead of trying all in turn.

With fifty routes, the search otherwise takes most of a short request. Mounts, WebSockets and
unknown paths are left to the framework's search, which also answers 404: the index never decides
differently from it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from fastapi import FastAPI
from fastapi.params import Form
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.base.errors import MethodNotAllowed

# The scope's key for the template of the matched route, such as "/api/v1/items/{item_id}".
ROUTE_TEMPLATE_KEY = "route_template"
DEPTH = 3  # path segments: "/api/v1/items"


class IndexedRoute(NamedTuple):
    """A route in the index; ``app`` is ``None`` if only the framework can serve it."""

    template: str
    methods: frozenset[str]
    matches: Callable[[Scope], tuple[Match, Any]]
    app: ASGIApp | None
    route: BaseRoute


class RouteIndex(BaseRoute):
    """The app's first route, which stands for all indexed ones."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        entries = [_entry(context) for context in iter_route_contexts(list(routes))]
        keys = {_key(entry.template) for entry in entries}
        # A parameter among the first segments can match a path with any prefix.
        self._wildcard_routes = [entry for entry in entries if "{" in _key(entry.template)]
        self._table = {
            key: [entry for entry in entries if _may_match(entry, key)]
            for key in keys
            if "{" not in key
        }

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope.get("root_path"):
            return Match.NONE, {}
        entries = self._table.get(_key(scope["path"]), self._wildcard_routes)
        method = scope["method"]
        for entry in entries:
            if method in entry.methods or not entry.methods:
                match, found = entry.matches(scope)
                if match is Match.FULL:
                    scope[ROUTE_TEMPLATE_KEY] = entry.template
                    return _found(entry, found)
        return _wrong_method(entries, scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["indexed_app"](scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> NoReturn:
        raise NoMatchFound(name, path_params)


def _found(entry: IndexedRoute, found: Scope) -> tuple[Match, Scope]:
    if entry.app is None:
        return Match.NONE, {}
    found["route"] = entry.route
    found["indexed_app"] = entry.app
    return Match.FULL, found


def _wrong_method(entries: list[IndexedRoute], scope: Scope) -> tuple[Match, Scope]:
    """A match that answers 405 with the methods that the path allows, if there are any."""
    partial = [entry for entry in entries if entry.matches(scope)[0] is Match.PARTIAL]
    if not partial:
        return Match.NONE, {}
    allowed = sorted({method for entry in partial for method in entry.methods})

    async def refuse(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise MethodNotAllowed(allowed)

    return Match.PARTIAL, {
        "route": partial[0].route,
        ROUTE_TEMPLATE_KEY: partial[0].template,
        "indexed_app": refuse,
    }


def _entry(context: RouteContext) -> IndexedRoute:
    return IndexedRoute(
        template=context.path_format or context.path or "/{path}",
        methods=frozenset(context.methods or ()),
        matches=context.matches,
        app=context.app if context.methods and not _takes_form(context) else None,
        route=context.original_route,
    )


def _takes_form(context: RouteContext) -> bool:
    """Whether a route takes a form, whose limits only the framework's search applies."""
    body = getattr(context, "body_field", None)
    return body is not None and isinstance(body.field_info, Form)


def _key(path: str) -> str:
    return "/".join(path.split("/", DEPTH + 1)[: DEPTH + 1])


def _may_match(entry: IndexedRoute, key: str) -> bool:
    literal = entry.template.partition("{")[0]
    return key.startswith(literal) or _key(entry.template) == key


def install_index(app: FastAPI) -> None:
    """Index the routes of ``app``; call it again after adding routes."""
    routes = [route for route in app.router.routes if not isinstance(route, RouteIndex)]
    app.router.routes[:] = [RouteIndex(routes), *routes]
