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

    id: str = Field(examples=["a1b2c3d4"])
    owner: str = Field(examples=["billing"])
    scopes: list[str] = Field(examples=[["orders:read"]])
    created_at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    expires_at: datetime | None = Field(examples=["2027-01-31T09:30:00Z"])
    revoked_at: datetime | None = Field(examples=[None])
    disabled_at: datetime | None = Field(examples=[None])
    last_used_at: datetime | None = Field(examples=["2026-02-01T12:00:00Z"])


class KeyCreated(KeyRead):
    """A new key with its secret in ``key``, which cannot be retrieved again."""

    key: str = Field(examples=["key_example"])


class Me(ResponseModel):
    """The authenticated caller, their scopes and the id of their key."""

    id: str = Field(examples=["billing"])
    scopes: list[str] = Field(examples=[["orders:read"]])
    key_id: str = Field(examples=["a1b2c3d4"])
