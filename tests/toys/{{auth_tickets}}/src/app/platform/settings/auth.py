"""Settings of the tickets."""

from pydantic import BaseModel, Field


class AuthSettings(BaseModel):
    ticket_lifetime: int = Field(600, ge=1, description="Seconds that a ticket is good for")
