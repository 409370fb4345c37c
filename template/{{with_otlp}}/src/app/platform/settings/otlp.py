"""Settings of traces that leave by OTLP, OpenTelemetry's protocol."""

from pydantic import Field, SecretStr

from app.platform.settings.traces import TraceSettings


class OtlpSettings(TraceSettings):
    """Where spans go."""

    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="Who takes spans, such as http://localhost:4318; unset: nobody"
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers for it: name=value, by comma"
    )
