"""A route index: finds a route by the first segments of its path instead of by linear search.

With fifty routes, linear search takes most of the time of a short request. Mounts, WebSockets and
unknown paths (404) are left to the framework's search; but for HEAD, which the framework refuses,
the index never decides differently from it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from fastapi import FastAPI
from fastapi.params import Form
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.base.errors import MethodNotAllowed
from app.platform.base.paths import route_path

# The scope's key for the template of the matched route, such as "/api/v1/orders/{order_id}".
ROUTE_TEMPLATE_KEY = "route_template"
DEPTH = 3  # path segments: "/api/v1/orders"
# A GET route answers HEAD as well (RFC 9110, section 9.1); the request middleware omits the body.
METHODS = {"HEAD": ("HEAD", "GET")}


class IndexedRoute(NamedTuple):
    """A route in the index; ``app`` is ``None`` if only the framework can serve it."""

    template: str
    methods: frozenset[str]
    matches: Callable[[Scope], tuple[Match, Any]]
    app: ASGIApp | None
    route: BaseRoute


class RouteIndex(BaseRoute):
    """The app's first route; it dispatches to all indexed ones."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        indexed = [_indexed(context) for context in iter_route_contexts(list(routes))]
        keys = {_key(route.template) for route in indexed}
        self._websockets = [route for route in indexed if not route.methods]
        # A parameter among the first segments can match a path with any prefix.
        self._wildcard_routes = [route for route in indexed if "{" in _key(route.template)]
        self._routes_by_key = {
            key: [route for route in indexed if _may_match(route, key)]
            for key in keys
            if "{" not in key
        }

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            self._note_template(scope)
            return Match.NONE, {}
        candidates = self._routes_by_key.get(_key(route_path(scope)), self._wildcard_routes)
        for method in METHODS.get(scope["method"], (scope["method"],)):
            wanted = scope if method == scope["method"] else {**scope, "method": method}
            for route in candidates:
                if method in route.methods or not route.methods:
                    match, child_scope = route.matches(wanted)
                    if match is Match.FULL:
                        scope[ROUTE_TEMPLATE_KEY] = route.template
                        return _full_match(route, child_scope)
        return _method_not_allowed(candidates, scope)

    def _note_template(self, scope: Scope) -> None:
        """Leave the template of a WebSocket's route in its scope; the framework dispatches it."""
        for route in self._websockets:
            if route.matches(scope)[0] is Match.FULL:
                scope[ROUTE_TEMPLATE_KEY] = route.template
                return

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["indexed_app"](scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> NoReturn:
        raise NoMatchFound(name, path_params)


def _full_match(route: IndexedRoute, child_scope: Scope) -> tuple[Match, Scope]:
    if route.app is None:
        return Match.NONE, {}
    child_scope["route"] = route.route
    child_scope["indexed_app"] = route.app
    return Match.FULL, child_scope


def _method_not_allowed(candidates: list[IndexedRoute], scope: Scope) -> tuple[Match, Scope]:
    """A match that answers 405 with the methods that the path supports; no match without any."""
    partial = [route for route in candidates if route.matches(scope)[0] is Match.PARTIAL]
    if not partial:
        return Match.NONE, {}
    methods = {method for route in partial for method in route.methods}
    allowed = sorted(methods | {"HEAD"} if "GET" in methods else methods)

    async def refuse(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise MethodNotAllowed(allowed)

    return Match.PARTIAL, {
        "route": partial[0].route,
        ROUTE_TEMPLATE_KEY: partial[0].template,
        "indexed_app": refuse,
    }


def _indexed(context: RouteContext) -> IndexedRoute:
    return IndexedRoute(
        template=context.path_format or context.path or "/{path}",
        methods=frozenset(context.methods or ()),
        matches=context.matches,
        app=context.app if context.methods and not _takes_form(context) else None,
        route=context.original_route,
    )


def _takes_form(context: RouteContext) -> bool:
    """Whether a route takes a form: only the framework's search applies the limits of forms."""
    body = getattr(context, "body_field", None)
    return body is not None and isinstance(body.field_info, Form)


def _key(path: str) -> str:
    return "/".join(path.split("/", DEPTH + 1)[: DEPTH + 1])


def _may_match(route: IndexedRoute, key: str) -> bool:
    literal = route.template.partition("{")[0]
    return key.startswith(literal) or _key(route.template) == key


def install_index(app: FastAPI) -> None:
    """Index the routes of ``app``; call it again after adding routes."""
    routes = [route for route in app.router.routes if not isinstance(route, RouteIndex)]
    app.router.routes[:] = [RouteIndex(routes), *routes]
