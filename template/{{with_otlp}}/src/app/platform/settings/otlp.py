"""Settings of the OTLP exporter, by OpenTelemetry's own names."""

from pydantic import Field, SecretStr

from app.platform.settings.traces import TraceSettings


class OtlpSettings(TraceSettings):
    """The OTLP endpoint and its headers."""

    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="OTLP endpoint, such as http://localhost:4318; unset: spans are not exported",
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers of exports: name=value, comma-separated"
    )
