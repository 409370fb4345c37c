"""The two cookies: the session's, which scripts can't read, and the CSRF token's, which they do.

In production their names begin with ``__Host-``: browsers then keep them only if they came over
HTTPS from this very host, so that no other host of the domain can set or see them. Elsewhere they
are plain, to work over http.
"""

from fastapi import Response
from starlette.requests import HTTPConnection

from app.settings import Settings

SESSION = "session"
CSRF = "csrf"
PREFIX = "__Host-"


def session_of(connection: HTTPConnection) -> str | None:
    """Return what the session's cookie holds."""
    settings: Settings = connection.app.state.settings
    return connection.cookies.get(_name(SESSION, settings))


def give(response: Response, settings: Settings, token: str, csrf_token: str) -> None:
    _set(response, settings, SESSION, token, settings.session_lifetime)
    _set(response, settings, CSRF, csrf_token, settings.session_lifetime)


def take_back(response: Response, settings: Settings) -> None:
    _set(response, settings, SESSION, "", 0)
    _set(response, settings, CSRF, "", 0)


def _set(response: Response, settings: Settings, cookie: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(cookie, settings),
        value,
        max_age=seconds,
        path="/",
        secure=_strict(settings),
        httponly=cookie == SESSION,
        samesite="lax",
    )


def _name(cookie: str, settings: Settings) -> str:
    return PREFIX + cookie if _strict(settings) else cookie


def _strict(settings: Settings) -> bool:
    return settings.is_deployed
