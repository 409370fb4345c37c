"""Settings of tracing: OpenTelemetry's own."""

from app.platform.settings.otlp import OtlpSettings


class TracingSettings(OtlpSettings):
    """Nothing more is to be set."""
