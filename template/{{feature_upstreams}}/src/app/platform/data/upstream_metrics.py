"""Metrics of upstreams: durations, retries, rejections, and the state of circuit breakers."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.platform.observability.telemetry import BUCKETS


class UpstreamMetrics:
    """The metrics of all upstreams of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"upstream_{name}", text, ["upstream", *labels], registry=registry)

        self.durations = Histogram(
            "upstream_request_duration_seconds",
            "Duration of calls, with their retries.",
            ["upstream", "outcome"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.retries = counter("retries", "Attempts after the first.")
        self.retries_denied = counter("retries_denied", "Retries that the budget did not allow.")
        self.rejections = counter("rejections", "Attempts that were not made.", "reason")
        self.hedges = counter("hedges", "Second requests because the first one was slow.")
        self.coalesced = counter("coalesced", "Calls that shared the response of another.")
        self.fallbacks = counter("fallbacks", "Failed calls in place of which there was a default.")
        self.breaker = Gauge(
            "upstream_breaker_state",
            "0: closed, 1: half-open, 2: open, in the process where it is worst.",
            ["upstream"],
            registry=registry,
            multiprocess_mode="livemax",
        )
