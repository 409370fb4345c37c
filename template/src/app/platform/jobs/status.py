"""A job as it is stored, and its status: the part that its owner may see."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field

JobState = Literal["queued", "running", "succeeded", "dead"]


class Progress(BaseModel):
    """Progress of a running job: ``done`` of ``total``, in units of the job's choice."""

    done: int = Field(ge=0, examples=[40])
    total: int | None = Field(None, ge=0, description="Unknown where null", examples=[100])
    message: str = Field("", max_length=200, examples=["Reading the orders"])


class _Job(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    name: str = Field(examples=["orders.export_orders"])
    status: JobState
    attempts: int = Field(description="Number of attempts so far", examples=[1])
    created_at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    started_at: datetime | None = Field(None, description="Start of the last attempt")
    finished_at: datetime | None = None
    progress: Progress | None = Field(None, description="Of the last attempt, if it reports")
    result: Any = None

    @property
    def finished(self) -> bool:
        return self.status in ("succeeded", "dead")


class JobRecord(_Job):
    """A job as it is stored, for the operator: the message of its ``error`` may have secrets."""

    error: str | None = None


class JobStatus(_Job):
    """Status of a job. ``dead``: it failed and has no retries left."""

    @computed_field(description="Why the job is dead")  # type: ignore[prop-decorator]
    @property
    def error(self) -> str | None:
        """A sentence of this service; what the job raised is in the log."""
        if self.status != "dead":
            return None
        attempts = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"The job failed after {attempts}."


def public_status(job: Any, owner: str | None, caller: str | None) -> JobStatus | None:
    """Status of a stored job, a row or a record; ``None`` if it belongs to another ``owner``."""
    return JobStatus.model_validate(job) if owner in (caller, None) else None


HELD_BY_ANOTHER = "This job is already queued or running for another caller."
