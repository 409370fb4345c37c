"""Settings of event streams."""

from pydantic import Field
from pydantic_settings import BaseSettings


class EventStreamSettings(BaseSettings):
    """Limits of event streams and of the events that are kept for clients that resume."""

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
    event_stream_buffer: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Events that may wait for a slow client, before its stream ends",
    )
    event_stream_history: int = Field(
        1000, ge=1, le=1_000_000, description="Events kept of each topic, for clients that resume"
    )
    event_stream_retention: int = Field(
        3600, ge=1, le=2_592_000, description="Seconds from its last event until a topic is deleted"
    )
