"""What is known of one job."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "running", "succeeded", "dead"]


class JobStatus(BaseModel):
    """A job as its owner sees it. ``dead``: it failed and will not be tried again by itself."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["items.export_items"])
    status: State
    attempts: int = Field(description="How often it was started")
    created_at: datetime
    started_at: datetime | None = Field(None, description="When the last attempt began")
    finished_at: datetime | None = None
    result: Any = None
    error: str | None = Field(None, description="Why the last attempt failed")

    @property
    def finished(self) -> bool:
        return self.status in ("succeeded", "dead")
