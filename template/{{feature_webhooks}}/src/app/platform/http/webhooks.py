"""Received webhooks: signed messages of other services, each of which takes effect once.

https://www.standardwebhooks.com. The signature is verified first, on the bytes of the body. Then
the id of the message is inserted in the request's transaction (``SessionDep``). Every refusal is
the same 401; the log has the reason.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from app.platform.base.errors import AppError, Unauthorized
from app.platform.data import received_webhooks
from app.platform.data.database import SessionDep
from app.platform.http import audit
from app.platform.http.problems import responses
from app.platform.settings import PlatformSettings
from app.platform.settings.webhooks import SOURCE, webhook_keys

MAX_ID_LENGTH = 255
# One in so many messages also deletes old ids, at most `SWEEP_SIZE` of them.
SWEEP_INTERVAL = 100
SWEEP_SIZE = 200

M = TypeVar("M", bound=BaseModel)


class WebhookRefused(Unauthorized):
    """The message is not signed by its source, or not within five minutes."""

    def __init__(self) -> None:
        super().__init__("The signature of the message is not valid.")


class WebhookTooLarge(AppError):
    """The body is larger than ``WEBHOOK_MAX_SIZE``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "content_too_large"

    def __init__(self) -> None:
        super().__init__("The message is too large.")


class WebhookInvalid(AppError):
    """The message is signed, and its body is not what the route takes."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid"

    def __init__(self) -> None:
        super().__init__("This route does not take the body of the message.")


class RepeatedWebhook(Exception):
    """Ends the request of a message that was received before: 202, and nothing is done."""


class NotSigned(Exception):
    """The reason why a message was refused, for the log."""


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A message with a valid signature, which was not received before."""

    source: str
    id: str
    body: bytes

    def parse(self, model: type[M]) -> M:
        """The body as ``model``; raises ``WebhookInvalid``, a 422."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError:
            raise WebhookInvalid from None


# The id of a message, from its headers, its body and a key; raises ``NotSigned``.
Scheme = Callable[[Request, bytes, bytes], str]


def standard(request: Request, body: bytes, key: bytes) -> str:
    """Standard Webhooks: id and time are signed, too; a message is valid for five minutes."""
    message_id = request.headers.get("webhook-id", "")
    if not 0 < len(message_id) <= MAX_ID_LENGTH:
        raise NotSigned("no id, or a long one")
    try:
        Webhook(key).verify(body, dict(request.headers), json_parse=False)
    except WebhookVerificationError as error:
        raise NotSigned(str(error)) from None
    except ValueError:  # of text that is no base64 or no UTF-8, which the library lets through
        raise NotSigned("malformed") from None
    return message_id


def hmac_sha256(header: str, prefix: str = "") -> Scheme:
    """A plain HMAC-SHA256 of the body, in hexadecimal, which many services send.

        webhook_source("shop", hmac_sha256("X-Shop-Signature", prefix="sha256="))

    It signs neither an id nor a time, so the body itself is the id: the same body takes effect
    once as long as ids are kept.
    """

    def scheme(request: Request, body: bytes, key: bytes) -> str:
        given = request.headers.get(header, "").encode("latin-1")
        expected = f"{prefix}{hmac.new(key, body, sha256).hexdigest()}".encode()
        if not hmac.compare_digest(given, expected):
            raise NotSigned("No matching signature found" if given else f"no {header}")
        return sha256(body).hexdigest()

    return scheme


class webhook_source:  # noqa: N801 (used like a function, as `limit` is)
    """A dependency for the messages of one sender, whose secrets are in ``WEBHOOK_SECRETS``.

        BILLING = webhook_source("billing")

        @router.post("/billing", status_code=202, responses=BILLING.responses)
        async def receive(message: Annotated[WebhookMessage, Depends(BILLING)]) -> None: ...

    Raises ``WebhookRefused`` (401), ``WebhookTooLarge`` (413) and, while the same message is being
    processed, ``WebhookInProgress`` (503).
    """

    responses = responses(WebhookRefused, WebhookTooLarge, WebhookInvalid)

    def __init__(self, source: str, scheme: Scheme = standard) -> None:
        if not SOURCE.fullmatch(source):
            raise ValueError(f"{source!r} is not a source; write it in lower case, as billing")
        self.source = source
        self.scheme = scheme

    async def __call__(self, request: Request, session: SessionDep) -> WebhookMessage:
        settings: PlatformSettings = request.app.state.settings
        body = await _read(request, settings.webhook_max_size)
        message_id = self._verify(request, body, settings)
        if not await received_webhooks.claim(session, self.source, message_id):
            raise RepeatedWebhook
        if secrets.randbelow(SWEEP_INTERVAL) == 0:
            await received_webhooks.sweep(session, settings.webhook_id_retention, SWEEP_SIZE)
        return WebhookMessage(self.source, message_id, body)

    def _verify(self, request: Request, body: bytes, settings: PlatformSettings) -> str:
        reason = f"no secret of {self.source} in WEBHOOK_SECRETS"
        keys = webhook_keys(settings.webhook_secrets.get_secret_value())
        for key in keys.get(self.source, ()):
            try:
                return self.scheme(request, body, key)
            except NotSigned as error:
                reason = str(error)
        audit.refused(request, "receive_webhook", reason, self.source)
        raise WebhookRefused


async def _read(request: Request, limit: int) -> bytes:
    """The body of a request, of which no more than ``limit`` bytes are ever held."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise WebhookTooLarge
    return bytes(body)


async def _repeated(_: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.ACCEPTED)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(RepeatedWebhook, _repeated)
