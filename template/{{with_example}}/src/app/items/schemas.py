"""Request and response bodies of the items API."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.platform.http.schemas import (
    NOT_BLANK,
    STORABLE,
    STRIPPED,
    PartialModel,
    RequestModel,
    ResponseModel,
)

Name = Annotated[str, NOT_BLANK, Field(max_length=200), STRIPPED]
Description = Annotated[str, STORABLE, Field(max_length=10_000)]


class PartWrite(RequestModel):
    name: Name = Field(examples=["Fluke"])
    quantity: int = Field(1, ge=1, le=1_000_000)


class PartRead(ResponseModel):
    name: str = Field(examples=["Fluke"])
    quantity: int = Field(examples=[2])


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
    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    name: str = Field(examples=["Anchor"])
    description: str = Field(examples=["Forged, 40 kg"])
    created_at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    updated_at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    version: int = Field(examples=[1])
    parts: list[PartRead]


class PartialItem(PartialModel, ItemRead):
    """An item with some of its fields."""


class Total(ResponseModel):
    items: int = Field(examples=[42])


class Export(ResponseModel):
    """The result of an export: one JSON object per line, newest first."""

    items: int
    complete: bool = Field(description="Whether all your items are in it")
    lines: str
