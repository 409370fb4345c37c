"""The audit trail: who came, who left, who was refused. Log lines that no ``LOG_LEVEL`` drops.

A line has the event, whom it is about, the caller's address and the ids of the request. It never
has an e-mail address, a password or a token.
"""

import logging

import structlog
from starlette.requests import HTTPConnection

from app.platform.http.rate_limit import address

_logger = structlog.wrap_logger(
    None,
    wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    logger_factory_args=("app.audit",),
)


def succeeded(connection: HTTPConnection, event: str, subject: str) -> None:
    """Record what ``subject``, an id, did: ``audit.<event>``."""
    _logger.info(f"audit.{event}", **_who(connection, subject))


def refused(
    connection: HTTPConnection, event: str, reason: str, subject: str | None = None
) -> None:
    """Record what somebody tried; ``subject`` is whom it was tried on, if that is known."""
    _logger.warning(f"audit.{event}", reason=reason, **_who(connection, subject))


def _who(connection: HTTPConnection, subject: str | None) -> dict[str, str | None]:
    return {"subject": subject, "client_ip": address(connection)}
