"""Settings of tracing: OpenTelemetry's own variables, without those of an exporter."""

from app.platform.settings.traces import TraceSettings


class TracingSettings(TraceSettings):
    """No settings of its own."""
