"""Settings of logs and metrics."""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings


class ObservabilitySettings(BaseSettings):
    """Log level, access log sampling and the metrics port."""

    renamed: ClassVar = {"log_request_share": "access_log_sample_rate"}

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum severity of log lines"
    )
    access_log_sample_rate: float = Field(
        1, ge=0, le=1, description="Share of successful requests that are logged, from 0 to 1"
    )
    slow_request_ms: int = Field(
        1000,
        ge=0,
        le=3_600_000,
        description="Milliseconds from which a request is logged whatever the sample rate; 0: off",
    )
    slow_statement_ms: int = Field(
        500, ge=0, le=3_600_000, description="Milliseconds from which a statement is logged; 0: off"
    )
    loop_block_ms: int = Field(
        250,
        ge=0,
        le=3_600_000,
        description="Milliseconds from which a line that blocks the event loop is logged; 0: off",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Separate port for /metrics; unset: the port of the API"
    )

    @field_validator("metrics_port")
    @classmethod
    def _is_another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError("is PORT; choose another one, or leave it unset to serve both there")
        return value
