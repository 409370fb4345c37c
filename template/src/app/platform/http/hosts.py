"""The Host header allow-list: ``ALLOWED_HOSTS``."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.base.paths import route_path
from app.platform.http.access_log import PROBE_PATHS
from app.platform.http.problems import problem
from app.platform.settings import PlatformSettings


class AllowedHosts:
    """Refuses requests for other hosts with 400; ``*.example.com`` allows every subdomain.

    Probes are exempt: load balancers and kubelets send an IP address as ``Host``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.exact = frozenset(host.lower() for host in hosts if not host.startswith("*."))
        self.suffixes = tuple(host[1:].lower() for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exempt = scope["type"] == "lifespan" or route_path(scope) in PROBE_PATHS
        if exempt or self._allows(scope):
            await self.app(scope, receive, send)
        else:
            detail = "This service does not serve that host."
            await problem(400, "unknown_host", detail)(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        host = _without_port(given[0].decode("latin-1").lower())
        return host in self.exact or (bool(self.suffixes) and host.endswith(self.suffixes))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and not name.endswith(":") else host


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if "*" not in settings.allowed_hosts:
        app.add_middleware(AllowedHosts, hosts=settings.allowed_hosts)
