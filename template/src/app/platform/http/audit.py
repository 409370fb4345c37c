"""The audit log: authentication events, logged at every ``LOG_LEVEL``.

A line has the event, its subject, the client's IP address and the ids of the request; never an
e-mail address, a password or a token.
"""

import logging

import structlog
from starlette.requests import HTTPConnection

from app.platform.http.rate_limit import client_ip

_logger = structlog.wrap_logger(
    None,
    wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    logger_factory_args=("app.audit",),
)


def succeeded(connection: HTTPConnection, event: str, subject: str) -> None:
    """Log ``audit.<event>``; ``subject``: the account's id."""
    _logger.info(f"audit.{event}", **_fields(connection, subject))


def refused(
    connection: HTTPConnection, event: str, reason: str, subject: str | None = None
) -> None:
    """Log a refused ``audit.<event>``; ``subject``: the id of the targeted account, if known."""
    _logger.warning(f"audit.{event}", reason=reason, **_fields(connection, subject))


def _fields(connection: HTTPConnection, subject: str | None) -> dict[str, str | None]:
    return {"subject": subject, "client_ip": client_ip(connection)}
