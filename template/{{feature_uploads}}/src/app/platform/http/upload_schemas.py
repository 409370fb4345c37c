"""Bodies of requests and responses about uploads."""

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, field_validator

from app.platform.data.uploads import State
from app.platform.http.schemas import NOT_BLANK, RequestModel, ResponseModel

# Examples.
ID = "0b8f3f4e-7d5c-4a0e-9a53-1f9f2d1c7c11"
TIME = "2026-01-31T12:00:00Z"
URL = "https://bucket.s3.eu-central-1.amazonaws.com/uploads/0b8f3f4e7d5c4a0e9a531f9f2d1c7c11"

FileName = Annotated[str, NOT_BLANK, Field(max_length=1000)]
# For `openapi_extra` of a route that receives a file.
UPLOAD_BODY: dict[str, Any] = {
    "x-file-body": True,  # for programs that read the document, such as contract tests
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {}},
    },
}


class UploadRead(ResponseModel):
    """A file. ``pending``: it has not arrived, or is being scanned; ``failed``: see ``reason``."""

    id: UUID = Field(examples=[ID])
    name: str = Field(examples=["anchor.png"])
    state: State
    media_type: str | None
    size: int | None
    sha256: str | None = Field(description="In hexadecimal")
    reason: str | None
    created_at: datetime = Field(examples=[TIME])

    @field_validator("sha256", mode="before")
    @classmethod
    def _as_hex(cls, value: object) -> object:
        return value.hex() if isinstance(value, bytes) else value


class UploadCreate(RequestModel):
    """A file that the client will send to the storage."""

    name: FileName = Field(examples=["anchor.png"])
    media_type: str = Field(max_length=100, examples=["image/png"])
    size: int = Field(ge=1, description="In bytes", examples=[70])
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="In hexadecimal", examples=[sha256().hexdigest()]
    )


class UploadLink(ResponseModel):
    """The request that sends a file to the storage, with exactly these headers."""

    id: UUID = Field(examples=[ID])
    method: str = Field(examples=["PUT"])
    url: str = Field(examples=[URL])
    headers: dict[str, str] = Field(examples=[{"Content-Type": "image/png"}])
    expires_at: datetime = Field(examples=[TIME])


class DownloadLink(ResponseModel):
    """An address of the file in the storage, valid without credentials."""

    url: str = Field(examples=[URL])
    expires_at: datetime = Field(examples=[TIME])
