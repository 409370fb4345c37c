"""Whether a span of this environment is accepted where it is exported to: for ``app check``."""

import asyncio
import logging

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from app.platform.observability.tracing import provider
from app.platform.settings import PlatformSettings

FLUSH_TIMEOUT = 5000  # milliseconds


class NotExported(Exception):
    """Spans are not exported, for the reason in the message."""


class _Reasons(logging.Handler):
    """Collects what the exporter logs: a failure of it raises nothing."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


async def check_export(settings: PlatformSettings) -> str:
    """Export one span, named ``app check``; raises ``NotExported``.

    Components must have been set up, since one of them may sign what is exported.
    """
    create_processor = provider.span_processor_factory(settings)
    if create_processor is None:
        if settings.is_deployed:
            raise NotExported("spans are not exported: no endpoint for them is set, or no key")
        return "not exported"
    reasons = _Reasons()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(reasons)
    logger.propagate = False  # the reason is in the exception
    try:
        arrived = await asyncio.to_thread(_export, create_processor())
    finally:
        logger.propagate = True
        logger.removeHandler(reasons)
    if reasons.messages or not arrived:
        reason = reasons.messages[0] if reasons.messages else "no answer in time"
        raise NotExported(f"spans are lost: {reason}")
    return "a span was accepted"


def _export(processor: SpanProcessor) -> bool:
    """Whether the span has left in time, or has failed."""
    own = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    own.add_span_processor(processor)
    own.get_tracer(__name__).start_span("app check").end()
    return own.force_flush(FLUSH_TIMEOUT)
