"""Settings of tracing with Honeycomb."""

from pydantic import Field, SecretStr

from app.platform.settings.otlp import OtlpSettings


class TracingSettings(OtlpSettings):
    """The API key, beside OpenTelemetry's own variables."""

    honeycomb_api_key: SecretStr | None = Field(
        None, description="Ingest key; unset: spans are exported only if an OTLP endpoint is set"
    )
