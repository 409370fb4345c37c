"""Settings of the virus scan of uploads."""

import re

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings


class UploadScanSettings(BaseSettings):
    """The daemon that scans uploads."""

    clamav_address: str = Field(
        "", description="host:port of ClamAV's daemon, which scans every upload; unset: no scan"
    )

    @field_validator("clamav_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}", value):
            raise ValueError("write it as host:port, such as clamav:3310")
        return value
