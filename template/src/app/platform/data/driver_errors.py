"""Errors of the driver: their SQLSTATE, and raising one as SQLAlchemy would."""

from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def sqlstate(error: DBAPIError) -> str | None:
    """The SQLSTATE of an error of Postgres; ``None`` if the connection failed."""
    return getattr(error.orig, "sqlstate", None)


def raise_driver_error(
    connection: Connection, dbapi: Any, error: BaseException, statement: str
) -> NoReturn:
    """Raise an error of a statement on the driver's connection, or a cancellation. In a greenlet.

    Emits ``handle_error``, and invalidates the connection where its state is unknown. ``dbapi``:
    the ``dbapi_connection`` on which the statement ran.
    """
    try:
        if isinstance(error, Exception):
            dbapi._handle_exception(error)
        raise error
    except BaseException as translated:  # noqa: BLE001 (raises it)
        connection._handle_dbapi_exception(translated, statement, None, None, None)
