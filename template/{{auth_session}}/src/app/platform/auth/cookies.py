"""The two cookies: the session token, and the CSRF token, which scripts can read.

In production their names begin with ``__Host-``: browsers accept such cookies only over HTTPS and
send them to this host only, so that no other host of the domain can set or read them. Elsewhere the
names have no prefix, so that plain HTTP works.
"""

from fastapi import Response
from starlette.requests import HTTPConnection

from app.platform.settings import PlatformSettings

SESSION = "session"
CSRF = "csrf"
PREFIX = "__Host-"


def session_token(connection: HTTPConnection) -> str | None:
    """The token in the session cookie."""
    settings: PlatformSettings = connection.app.state.settings
    return connection.cookies.get(_name(SESSION, settings))


def set_cookies(
    response: Response, settings: PlatformSettings, token: str, csrf_token: str
) -> None:
    _set(response, settings, SESSION, token, settings.session_lifetime)
    _set(response, settings, CSRF, csrf_token, settings.session_lifetime)


def delete_cookies(response: Response, settings: PlatformSettings) -> None:
    _set(response, settings, SESSION, "", 0)
    _set(response, settings, CSRF, "", 0)


def _set(
    response: Response, settings: PlatformSettings, cookie: str, value: str, seconds: int
) -> None:
    response.set_cookie(
        _name(cookie, settings),
        value,
        max_age=seconds,
        path="/",
        secure=_strict(settings),
        httponly=cookie == SESSION,
        samesite="lax",
    )


def _name(cookie: str, settings: PlatformSettings) -> str:
    # Two services on one host, each under a prefix, have cookies of their own.
    name = cookie + settings.root_path.replace("/", "-")
    return PREFIX + name if _strict(settings) else name


def _strict(settings: PlatformSettings) -> bool:
    return settings.is_deployed
