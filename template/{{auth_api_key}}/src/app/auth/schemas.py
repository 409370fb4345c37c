"""What goes in and out of the routes of the keys."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.platform.http.schemas import RequestModel, ResponseModel

# Who calls with a key. It stands in logs: the name of a program or a customer, not of a person.
OWNER = r"^[a-z0-9][a-z0-9._-]{0,62}$"
SCOPE = r"^[A-Za-z0-9][A-Za-z0-9:._/-]{0,63}$"

Owner = Annotated[str, Field(pattern=OWNER, examples=["billing"])]
Scope = Annotated[str, Field(pattern=SCOPE, examples=["items:read"])]
Days = Annotated[int, Field(ge=1, le=366, description="Unset: API_KEY_LIFETIME_DAYS")]


class KeyCreate(RequestModel):
    """``owner`` is you, unless you may manage the keys of others."""

    owner: Owner | None = None
    scopes: list[Scope] = Field(default_factory=list, max_length=50)
    expires_in_days: Days | None = None


class KeyRotate(RequestModel):
    """The old key is good for ``overlap_hours`` yet: the time to put the new one in its place."""

    overlap_hours: Annotated[int, Field(ge=0, le=168)] = 24
    expires_in_days: Days | None = None


class KeyRead(ResponseModel):
    """A key, without its secret. ``last_used_at`` is right to the minute."""

    id: str
    owner: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyMade(KeyRead):
    """A new key. ``key`` is shown this once."""

    key: str


class Me(ResponseModel):
    """Who you are, what you may do, and with which key."""

    id: str
    scopes: list[str]
    key_id: str
