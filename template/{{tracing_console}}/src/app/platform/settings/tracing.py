"""Settings of tracing: OpenTelemetry's own, but for those of a place that spans go to."""

from app.platform.settings.traces import TraceSettings


class TracingSettings(TraceSettings):
    """Nothing more is to be set."""
