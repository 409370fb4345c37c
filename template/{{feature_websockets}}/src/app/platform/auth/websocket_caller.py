"""The caller of a WebSocket: by header or cookie, or by the token in its first message.

Browsers cannot set the header of a WebSocket. A page without a cookie sends its token first:
``{"type": "authenticate", "token": "..."}``.
"""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, WebSocket
from pydantic import BaseModel, ValidationError
from starlette.types import Message
from starlette.websockets import WebSocketState

from app.platform.auth.current import CurrentUser, User
from app.platform.base.errors import Unauthorized

HANDLERS = "starlette.exception_handlers"

_router = APIRouter()


class Authenticate(BaseModel):
    """The first message of a client whose handshake has no credential."""

    type: Literal["authenticate"]
    token: str


@_router.websocket("/")
async def _authenticate(websocket: WebSocket, user: CurrentUser) -> None:
    """Leave the caller in the state; reached only through ``WebSocketCaller``."""
    websocket.state.caller = user


class WebSocketCaller:
    """The caller who opened a WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._headers: list[tuple[bytes, bytes]] = websocket.scope["headers"]

    async def user(self) -> User:
        """The caller, authenticated anew at each call; raises ``Unauthorized``.

        If the handshake has no credential, it is accepted, and the first message has to have one.
        """
        try:
            return await self._user()
        except Unauthorized:
            accepted = self._websocket.application_state is not WebSocketState.CONNECTING
            if accepted or "authorization" in self._websocket.headers:
                raise
        await self._websocket.accept()
        value = f"Bearer {await self._token()}"
        self._headers = [*self._headers, (b"authorization", value.encode("latin-1", "replace"))]
        return await self._user()

    async def _user(self) -> User:
        scope = {**self._websocket.scope, "path": "/", "root_path": "", "state": {}}
        scope["headers"] = self._headers
        scope.pop(HANDLERS, None)  # errors are raised here, not answered
        await _router(scope, _no_message, _send_nothing)
        user: User = scope["state"]["caller"]
        return user

    async def _token(self) -> str:
        timeout = self._websocket.app.state.settings.websocket_authentication_timeout
        try:
            async with asyncio.timeout(timeout):
                text = await self._websocket.receive_text()
            return Authenticate.model_validate_json(text).token
        except (TimeoutError, KeyError, ValidationError):
            raise Unauthorized("Send your token in the first message.") from None


async def _no_message() -> Message:
    return {"type": "websocket.connect"}


async def _send_nothing(message: Message) -> None:
    """Send nothing: the handshake is answered elsewhere."""


WebSocketCallerDep = Annotated[WebSocketCaller, Depends(WebSocketCaller)]
