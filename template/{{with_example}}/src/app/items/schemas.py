"""Request and response bodies of the items API."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.platform.http.schemas import NOT_BLANK, STORABLE, STRIPPED, RequestModel, ResponseModel

Name = Annotated[str, NOT_BLANK, Field(max_length=200), STRIPPED]
Description = Annotated[str, STORABLE, Field(max_length=10_000)]


class PartWrite(RequestModel):
    name: Name
    quantity: int = Field(1, ge=1, le=1_000_000)


class PartRead(ResponseModel):
    name: str
    quantity: int


Parts = Annotated[list[PartWrite], Field(max_length=50)]


class ItemCreate(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Anchor",
                    "description": "Forged, 40 kg",
                    "parts": [{"name": "Fluke", "quantity": 2}],
                }
            ]
        }
    )

    name: Name
    description: Description = ""
    parts: Parts = Field(default_factory=list)


class ItemPatch(RequestModel):
    """A partial update: fields that are missing or null stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "Forged, 45 kg"}]})

    name: Name | None = None
    description: Description | None = None
    parts: Parts | None = None


class ItemRead(ResponseModel):
    id: UUID
    name: str
    description: str
    created_at: datetime
    updated_at: datetime
    version: int
    parts: list[PartRead]


class Total(ResponseModel):
    items: int


class Export(ResponseModel):
    """The result of an export: one JSON object per line, newest first."""

    items: int
    lines: str
