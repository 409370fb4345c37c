"""Settings of uploads."""

import os
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from app.platform.settings.core import DEPLOYED
from app.platform.settings.sources import CommaSeparated

# Types that can be recognized by a file's first bytes.
MEDIA_TYPES = (
    "application/gzip",
    "application/pdf",
    "application/zip",
    "audio/flac",
    "audio/ogg",
    "audio/wav",
    "image/avif",
    "image/bmp",
    "image/gif",
    "image/heic",
    "image/jpeg",
    "image/png",
    "image/tiff",
    "image/webp",
    "text/plain",
    "video/mp4",
    "video/webm",
)


class UploadSettings(BaseSettings):
    """Storage and limits of uploads."""

    uploads_url: str = Field(
        "",
        validate_default=True,
        description="Storage of uploads: s3://bucket/prefix or file:///folder; unset, in"
        " development and tests: .local/uploads",
    )
    # 50 GiB: more needs larger parts than those that `object_store` buffers.
    uploads_max_size: int = Field(
        104_857_600, ge=1, le=53_687_091_200, description="Maximum bytes of an uploaded file"
    )
    uploads_types: CommaSeparated = Field(
        ["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"],
        description="Accepted types of files, comma-separated; recognized by their contents",
    )
    uploads_per_record: int = Field(20, ge=1, le=10_000, description="Maximum files of one record")
    uploads_limit: int = Field(
        10, ge=1, le=1000, description="Uploads through the service that a process receives at once"
    )
    uploads_timeout: float = Field(
        600, gt=0, le=86_400, description="Seconds until an upload through the service is cancelled"
    )
    uploads_link_ttl: int = Field(
        300, ge=1, le=43_200, description="Seconds that a link to the storage is valid"
    )
    uploads_pending_ttl: float = Field(
        86_400,
        ge=1,
        le=31_536_000,
        description="Seconds until an upload that is not complete, or has failed, is deleted",
    )

    @field_validator("uploads_url")
    @classmethod
    def _is_durable(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            if info.data.get("environment") in DEPLOYED:
                raise ValueError("is missing; write it as s3://bucket/prefix or file:///folder")
            return value
        url = urlsplit(value)
        folder = url.scheme == "file" and not url.netloc and len(url.path) > 1
        bucket = url.scheme == "s3" and bool(url.netloc)
        if not (folder or bucket) or url.query or url.fragment:
            raise ValueError("write it as s3://bucket/prefix or file:///folder")
        in_function = "AWS_LAMBDA_FUNCTION_NAME" in os.environ
        if folder and in_function and not url.path.startswith("/mnt/"):
            raise ValueError(
                "a folder of a function is lost with its instance; write s3://bucket/prefix, or a"
                " folder of a file system that is mounted below /mnt"
            )
        return value

    @field_validator("uploads_types")
    @classmethod
    def _are_recognized(cls, value: list[str]) -> list[str]:
        for media_type in value:
            if media_type not in MEDIA_TYPES:
                known = ", ".join(MEDIA_TYPES)
                raise ValueError(
                    f"{media_type} can't be recognized by contents; choose from {known}"
                )
        return value

    @model_validator(mode="after")
    def _outlasts_uploads(self) -> Self:
        if self.uploads_pending_ttl <= max(self.uploads_timeout, self.uploads_link_ttl):
            raise ValueError(
                "UPLOADS_PENDING_TTL must be longer than UPLOADS_TIMEOUT and UPLOADS_LINK_TTL, or"
                " uploads would be deleted while they are running"
            )
        return self
