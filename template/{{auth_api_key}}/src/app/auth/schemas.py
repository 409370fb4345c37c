"""Request and response bodies of the key routes."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.platform.http.schemas import RequestModel, ResponseModel

# The owner of a key appears in logs: the name of a program or a customer, not of a person.
OWNER = r"^[a-z0-9][a-z0-9._-]{0,62}$"
SCOPE = r"^[A-Za-z0-9][A-Za-z0-9:._/-]{0,63}$"

Owner = Annotated[str, Field(pattern=OWNER, examples=["billing"])]
Scope = Annotated[str, Field(pattern=SCOPE, examples=["orders:read"])]
Days = Annotated[int, Field(ge=1, le=366, description="Unset: API_KEY_LIFETIME_DAYS")]


class KeyCreate(RequestModel):
    """A new key. ``owner``: the caller by default; another one requires the scope `keys:admin`."""

    owner: Owner | None = None
    scopes: list[Scope] = Field(default_factory=list, max_length=50)
    expires_in_days: Days | None = None


class KeyRotate(RequestModel):
    """A replacement. ``overlap_hours``: how long the old key stays valid."""

    overlap_hours: Annotated[int, Field(ge=0, le=168)] = 24
    expires_in_days: Days | None = None


class KeyRead(ResponseModel):
    """A key without its secret. ``last_used_at`` is updated at most once a minute."""

    id: str
    owner: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyCreated(KeyRead):
    """A new key with its secret in ``key``, which cannot be retrieved again."""

    key: str


class Me(ResponseModel):
    """The authenticated caller, their scopes and the id of their key."""

    id: str
    scopes: list[str]
    key_id: str
