"""Settings of tracing with Honeycomb."""

from pydantic import Field, SecretStr

from app.platform.settings.otlp import OtlpSettings


class TracingSettings(OtlpSettings):
    """Who sends, beside OpenTelemetry's own settings."""

    honeycomb_api_key: SecretStr | None = Field(
        None, description="Ingest key; unset: nothing is exported, unless an endpoint is named"
    )
