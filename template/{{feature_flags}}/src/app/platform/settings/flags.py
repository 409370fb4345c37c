"""Settings of feature flags."""

from pydantic import Field
from pydantic_settings import BaseSettings


class FlagSettings(BaseSettings):
    """Fixed flags, and how often the others are read."""

    flags: dict[str, bool | int | float | str] = Field(
        {}, description='Flags with a fixed value, whatever the database says: {"new-prices": true}'
    )
    flags_refresh: float = Field(
        10, gt=0, le=3600, description="Seconds between two reads of the flags in the database"
    )
