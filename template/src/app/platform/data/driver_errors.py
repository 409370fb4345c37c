"""Errors of statements that run on the driver's connection, past SQLAlchemy."""

from typing import Any, NoReturn

from sqlalchemy import Connection


def raise_driver_error(
    connection: Connection, dbapi: Any, error: BaseException, statement: str
) -> NoReturn:
    """Raise an error of the driver, or a cancellation, as SQLAlchemy would. In a greenlet.

    Emits ``handle_error``, and invalidates the connection where its state is unknown. ``dbapi``:
    the ``dbapi_connection`` on which the statement ran.
    """
    try:
        if isinstance(error, Exception):
            dbapi._handle_exception(error)
        raise error
    except BaseException as translated:  # noqa: BLE001 (raises it)
        connection._handle_dbapi_exception(translated, statement, None, None, None)
