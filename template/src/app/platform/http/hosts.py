"""The hosts that this service answers for, so that nobody makes it speak in another's name."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.http.access_log import PROBES
from app.platform.http.problems import problem
from app.platform.settings import PlatformSettings


class TrustedHosts:
    """Refuses requests whose ``Host`` is none of ours. ``*.example.com`` means any name below it.

    Probes are answered under any name: who asks them uses an address.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.exact = frozenset(host.lower() for host in hosts if not host.startswith("*."))
        self.endings = tuple(host[1:].lower() for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in PROBES or self._trusts(scope):
            await self.app(scope, receive, send)
        else:
            answer = problem(400, "unknown_host", "This service doesn't answer for that host.")
            await answer(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        host = _without_port(given[0].decode("latin-1").lower())
        return host in self.exact or (bool(self.endings) and host.endswith(self.endings))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and not name.endswith(":") else host


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if "*" not in settings.allowed_hosts:
        app.add_middleware(TrustedHosts, hosts=settings.allowed_hosts)
