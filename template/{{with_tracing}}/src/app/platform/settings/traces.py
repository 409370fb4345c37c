"""Settings of tracing for every backend, by OpenTelemetry's own names.

Every other ``OTEL_*`` variable of the specification works too.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

# A list of pairs, with values in percent-encoding: name=value,name=value
PAIRS = re.compile(r"\s*[^\s=,]+\s*=[^,\r\n]*(,\s*[^\s=,]+\s*=[^,\r\n]*)*")

Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]


class TraceSettings(BaseSettings):
    """Sampling and resource attributes."""

    otel_traces_sampler: Sampler = Field(
        "parentbased_traceidratio", description="Sampler: which requests are recorded"
    )
    otel_traces_sampler_arg: float | None = Field(
        None, ge=0, le=1, description="Sampling ratio; unset: 0.1 in production, else 1"
    )
    otel_service_name: str | None = Field(
        None, description="service.name; unset: the name of this project"
    )
    otel_resource_attributes: str | None = Field(
        None, description="More resource attributes: name=value, comma-separated"
    )

    @field_validator("otel_resource_attributes")
    @classmethod
    def _are_pairs(cls, value: str | None) -> str | None:
        if value is not None and not PAIRS.fullmatch(value):
            raise ValueError("is not a list of attributes; write it as name=value,name=value")
        return value
