"""Settings of event streams."""

from pydantic import Field
from pydantic_settings import BaseSettings


class EventStreamSettings(BaseSettings):
    """Limits of event streams."""

    event_streams_per_caller: int = Field(
        10, ge=1, le=10_000, description="Event streams of one caller in one process"
    )
    event_stream_max_age: float = Field(
        3600,
        ge=1,
        le=86_400,
        description="Seconds until an event stream ends; its client reconnects, and is authorized"
        " again",
    )
