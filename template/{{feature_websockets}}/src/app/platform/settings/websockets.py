"""Settings of WebSockets in rooms."""

from pydantic import Field
from pydantic_settings import BaseSettings

from app.platform.settings.rates import Rate, RateSetting


class WebSocketSettings(BaseSettings):
    """Limits of WebSockets and of their messages."""

    websockets_per_caller: int = Field(
        10, ge=1, le=10_000, description="WebSockets of one caller in one process"
    )
    websockets_per_room: int = Field(
        1000, ge=1, le=100_000, description="WebSockets of one room in one process"
    )
    websocket_rate: RateSetting = Field(
        Rate(20, 1), description="Messages that a WebSocket may send, such as 20/second"
    )
    websocket_max_message: int = Field(
        16_384, ge=1, le=1_048_576, description="Maximum bytes of a WebSocket message"
    )
    websocket_authentication_timeout: float = Field(
        10, gt=0, le=300, description="Seconds for a WebSocket to authenticate by its first message"
    )
    websocket_recheck: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds between two checks that a WebSocket's caller is still authorized",
    )
