"""Idempotency keys: a POST or PATCH that is repeated with its key takes effect once.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header. The key is stored in the
transaction of the request (``SessionDep``): it exists if and only if the change was committed. So a
request that failed or was lost can be repeated, and one that has succeeded gets the same response.
"""

import re
import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, FastAPI, Request, Response, params
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.utils import deep_dict_update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.errors import AppError, BadRequest, Conflict
from app.platform.base.paths import route_path
from app.platform.data import idempotency_keys
from app.platform.data.database import SessionDep
from app.platform.data.idempotency_keys import KeyInUse, StoredResponse
from app.platform.http import cors
from app.platform.http.problems import responses
from app.platform.observability.logs import get_logger
from app.platform.observability.telemetry import counter
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
STREAMS = (StreamingResponse, FileResponse)
METHODS = frozenset({"POST", "PATCH"})  # the others are idempotent (RFC 9110, section 9.2.2)
# A string of RFC 9651, as the draft has it, or one without quotes, as most clients send it.
MAX_KEY_LENGTH = 255
QUOTED = rf'"(?:[ !#-\[\]-~]|\\["\\]){{1,{MAX_KEY_LENGTH}}}"'
BARE = rf"[!#-+\--\[\]-~]{{1,{MAX_KEY_LENGTH}}}"
KEY = re.compile(f"{QUOTED}|{BARE}")
CLAIM = "app.idempotency"
# One in so many requests with a new key also deletes expired keys, at most `SWEEP_SIZE` of them.
SWEEP_INTERVAL = 100
SWEEP_SIZE = 200

REQUESTS = counter(
    "idempotent_requests_total",
    "Requests with an idempotency key: new, replayed, reused, in_use, not_kept.",
    ["result"],
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class MissingKey(BadRequest):
    """The route requires a key."""

    code = "idempotency_key_missing"

    def __init__(self) -> None:
        super().__init__(f"This operation requires the header {HEADER}; send a new UUID.")


class InvalidKey(BadRequest):
    """The key is not one string of at most ``MAX_KEY_LENGTH`` visible characters."""

    code = "idempotency_key_invalid"

    def __init__(self) -> None:
        super().__init__(
            f"{HEADER} is not one string of 1 to {MAX_KEY_LENGTH} ASCII characters, such as a UUID."
        )


class KeyReused(AppError):
    """The caller has used the key for another request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            f"This {HEADER} was used for a request with another method, path, query or body; "
            "send a new one."
        )


class ResponseNotKept(Conflict):
    """The first request succeeded, and its response was too large to be stored."""

    code = "idempotency_response_not_kept"

    def __init__(self, status: int) -> None:
        super().__init__(
            f"The first request with this {HEADER} was answered with {status}; its response was "
            "too large to be kept. The request was not repeated."
        )


class Replay(Exception):
    """Ends a request with the stored response to an earlier one."""

    def __init__(self, stored: StoredResponse, body: bytes) -> None:
        self.stored = stored
        self.body = body


class Claim(NamedTuple):
    """A key that this request has inserted."""

    session: AsyncSession
    caller: str
    key: str


def idempotent(*, by: Callable[..., Any], required: bool = False) -> type[APIRoute]:
    """A route class whose POST and PATCH routes accept an ``Idempotency-Key``.

        router = APIRouter(prefix="/orders", route_class=idempotent(by=user_id))

    ``by``: a dependency that returns the caller, as for ``limit``. Each caller has their own keys,
    and is authenticated before a stored response is sent. ``required``: refuse requests without a
    key; otherwise, they are handled as if the route had another class.

    The routes must answer with a complete body and write through ``SessionDep`` or ``Jobs`` alone.
    Raises ``TypeError`` for one that streams or takes a form.
    """

    async def claim(
        request: Request, caller: Annotated[str, Depends(by)], session: SessionDep
    ) -> None:
        if request.method in METHODS:
            await _claim(request, caller, session, required)

    class IdempotentRoute(APIRoute):
        def __init__(
            self,
            path: str,
            endpoint: Callable[..., Any],
            *,
            methods: Iterable[str] | None = None,
            dependencies: Sequence[params.Depends] | None = None,
            responses: dict[int | str, dict[str, Any]] | None = None,
            openapi_extra: dict[str, Any] | None = None,
            **options: Any,
        ) -> None:
            self.keeps_responses = not METHODS.isdisjoint(methods or ())
            if self.keeps_responses:
                # The last of these: authorization and limits come first.
                dependencies = [*(dependencies or ()), Depends(claim)]
                responses = {**RESPONSES, **(responses or {})}
                described = _described(required, options)
                deep_dict_update(described, openapi_extra or {})
                openapi_extra = described
            super().__init__(
                path,
                endpoint,
                methods=list(methods) if methods else None,
                dependencies=dependencies,
                responses=responses,
                openapi_extra=openapi_extra,
                **options,
            )
            if self.keeps_responses and (reason := _unsuitable(self)):
                raise TypeError(f"{path}: a route {reason} can't be idempotent.")

        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()
            return _storing(handler) if self.keeps_responses else handler

    return IdempotentRoute


RESPONSES = responses(BadRequest, Conflict)


def _described(required: bool, options: dict[str, Any]) -> dict[str, Any]:
    """The key and the header of repeated responses, for OpenAPI."""
    parameter = {
        "name": HEADER,
        "in": "header",
        "required": required,
        "description": "Identifies the request when it is repeated: the response is then the same, "
        "and the change is made once. Use a new UUID for each request.",
        "schema": {"type": "string", "pattern": f"^(?:{KEY.pattern})$"},
        "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
    }
    header = {
        "description": f"`true` if the response is that to an earlier request with the {HEADER}",
        "schema": {"type": "string", "enum": ["true"]},
    }
    status = str(options.get("status_code") or 200)
    return {
        "x-idempotent": True,  # for programs that read the document, such as contract tests
        "parameters": [parameter],
        "responses": {status: {"headers": {REPLAYED: header}}},
    }


def _unsuitable(route: APIRoute) -> str | None:
    """Why the responses of a route can't be stored."""
    kind: Any = getattr(route.response_class, "value", route.response_class)
    if route.is_sse_stream or route.is_json_stream or issubclass(kind, STREAMS):
        return "that streams its response"
    if route.body_field and isinstance(route.body_field.field_info, params.Form):
        return "that takes a form"  # clients write a repeated one with another boundary
    return None


async def _claim(request: Request, caller: str, session: AsyncSession, required: bool) -> None:
    """Insert the key of a request; raise ``Replay`` if the caller has used it for the same one."""
    key = _key(request.headers.getlist(HEADER))
    if key is None:
        if required:
            raise MissingKey
        return
    settings: PlatformSettings = request.app.state.settings
    fingerprint = await _fingerprint(request)
    try:
        stored = await idempotency_keys.claim(
            session,
            caller,
            key,
            fingerprint,
            ttl=settings.idempotency_ttl,
            wait=settings.idempotency_wait,
        )
    except KeyInUse:
        REQUESTS.inc(result="in_use")
        raise
    if stored is None:
        REQUESTS.inc(result="new")
        request.scope[CLAIM] = Claim(session, caller, key)
        return
    if stored.fingerprint != fingerprint:
        REQUESTS.inc(result="reused")
        raise KeyReused
    if stored.body is None:
        REQUESTS.inc(result="not_kept")
        raise ResponseNotKept(stored.status)
    REQUESTS.inc(result="replayed")
    raise Replay(stored, stored.body)


def _key(lines: Sequence[str]) -> str | None:
    """The key, without the quotes that it may have; ``None`` without the header."""
    if not lines:
        return None
    value = lines[0].strip()
    if len(lines) > 1 or not KEY.fullmatch(value):
        raise InvalidKey
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value


async def _fingerprint(request: Request) -> bytes:
    """The fingerprint that a repeated request must share: method, path, query and body."""
    digest = sha256()
    scope = request.scope
    head = (request.method.encode(), route_path(scope).encode(), scope["query_string"])
    for part in (*head, await request.body()):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def _storing(handler: Handler) -> Handler:
    """Store the response with the key: after the route, and before its transaction commits."""

    async def handle(request: Request) -> Response:
        response = await handler(request)
        if claim := request.scope.get(CLAIM):
            await _store(request.app.state.settings, claim, response)
        return response

    return handle


async def _store(settings: PlatformSettings, claim: Claim, response: Response) -> None:
    if not isinstance(body := getattr(response, "body", None), bytes):
        raise TypeError(f"A {type(response).__name__} can't be repeated: use a complete response.")
    kept = len(body) <= settings.idempotency_max_response_size
    if not kept:
        logger.warning("response too large to be kept", idempotency_key=claim.key, bytes=len(body))
    headers = response.headers.items()
    await idempotency_keys.store(
        claim.session,
        claim.caller,
        claim.key,
        status=response.status_code,
        headers=[header for header in headers if header[0] != "set-cookie"],  # credentials
        body=body if kept else None,
    )
    if secrets.randbelow(SWEEP_INTERVAL) == 0:
        await idempotency_keys.sweep(claim.session, SWEEP_SIZE)


async def _replayed(_: Request, error: Exception) -> Response:
    assert isinstance(error, Replay)
    response = Response(error.body, error.stored.status)
    headers = [*error.stored.headers, (REPLAYED.lower(), "true")]
    response.raw_headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
    return response


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(Replay, _replayed)
    cors.allow(app, HEADER)
    cors.expose(app, REPLAYED)
