"""Settings of the OTLP exporter, by OpenTelemetry's own names."""

from pydantic import Field, SecretStr, field_validator

from app.platform.settings.traces import PAIRS, TraceSettings
from app.platform.settings.urls import split_url


class OtlpSettings(TraceSettings):
    """The OTLP endpoint and its headers."""

    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="OTLP endpoint, such as http://localhost:4318; unset: spans are not exported",
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers of exports: name=value, comma-separated"
    )

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value and not split_url(value, "http", "https"):
            raise ValueError("is not a URL; write it as http://localhost:4318")
        return value

    @field_validator("otel_exporter_otlp_headers")
    @classmethod
    def _are_headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not PAIRS.fullmatch(value.get_secret_value()):
            raise ValueError("is not a list of headers; write it as name=value,name=value")
        return value
