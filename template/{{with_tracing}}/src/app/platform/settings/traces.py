"""Settings of tracing for every backend, by OpenTelemetry's own names.

Every other ``OTEL_*`` variable of the specification works too.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

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
