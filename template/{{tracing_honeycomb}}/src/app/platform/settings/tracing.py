"""Settings of tracing with Honeycomb."""

from pydantic import Field, SecretStr, field_validator

from app.platform.settings.otlp import OtlpSettings


class TracingSettings(OtlpSettings):
    """The API key, beside OpenTelemetry's own variables."""

    honeycomb_api_key: SecretStr | None = Field(
        None, description="Ingest key; unset: spans are exported only if an OTLP endpoint is set"
    )

    @field_validator("honeycomb_api_key")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value() if value else "unset"
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("is not a key: it holds characters that no header can")
        return value
