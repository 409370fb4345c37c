"""Audit events of authentication: lines of the log, at every ``LOG_LEVEL``.

A line has the event, its subject, the client's IP address and the ids of the request; never an
e-mail address, a password or a token.
"""

from starlette.requests import HTTPConnection

from app.platform.http.rate_limit import client_ip
from app.platform.observability.logs import audit_logger


def succeeded(connection: HTTPConnection, event: str, subject: str) -> None:
    """Log ``audit.<event>``; ``subject``: the account's id."""
    audit_logger.info(f"audit.{event}", **_fields(connection, subject))


def refused(
    connection: HTTPConnection, event: str, reason: str, subject: str | None = None
) -> None:
    """Log a refused ``audit.<event>``; ``subject``: the id of the targeted account, if known."""
    audit_logger.warning(f"audit.{event}", reason=reason, **_fields(connection, subject))


def _fields(connection: HTTPConnection, subject: str | None) -> dict[str, str | None]:
    return {"subject": subject, "client_ip": client_ip(connection)}
