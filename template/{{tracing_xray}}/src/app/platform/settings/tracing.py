"""Settings of tracing: OpenTelemetry's own variables."""

from app.platform.settings.otlp import OtlpSettings


class TracingSettings(OtlpSettings):
    """No settings of its own."""
