"""Status of a job, as its owner sees it."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

JobState = Literal["queued", "running", "succeeded", "dead"]


class JobStatus(BaseModel):
    """Status of a job. ``dead``: it failed and has no retries left."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["items.export_items"])
    status: JobState
    attempts: int = Field(description="Number of attempts so far")
    created_at: datetime
    started_at: datetime | None = Field(None, description="Start of the last attempt")
    finished_at: datetime | None = None
    result: Any = None
    error: str | None = Field(None, description="Error of the last attempt")

    @property
    def finished(self) -> bool:
        return self.status in ("succeeded", "dead")
