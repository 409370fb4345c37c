"""Settings of topics: what is kept of their events, and what waits for slow clients."""

from pydantic import Field
from pydantic_settings import BaseSettings


class TopicSettings(BaseSettings):
    """Limits of the events that wait for a client, and of those kept for clients that resume."""

    topic_buffer: int = Field(
        100, ge=1, le=10_000, description="Events that may wait for a slow client, before it ends"
    )
    topic_history: int = Field(
        1000, ge=1, le=1_000_000, description="Events kept of each topic, for clients that resume"
    )
    topic_retention: int = Field(
        3600, ge=1, le=2_592_000, description="Seconds from its last event until a topic is deleted"
    )
