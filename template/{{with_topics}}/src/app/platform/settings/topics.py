"""Settings of topics: their history, and the buffer of each client."""

from pydantic import Field
from pydantic_settings import BaseSettings


class TopicSettings(BaseSettings):
    """Limits of the buffer of a client, and of the history for clients that resume."""

    topic_buffer: int = Field(
        100, ge=1, le=10_000, description="Events that may wait for a slow client, then it ends"
    )
    topic_history: int = Field(
        1000, ge=1, le=1_000_000, description="Events kept of each topic, for clients that resume"
    )
    topic_retention: int = Field(
        3600, ge=1, le=2_592_000, description="Seconds from its last event until a topic is deleted"
    )
