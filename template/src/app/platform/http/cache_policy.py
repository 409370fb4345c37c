"""Cache policies of routes (RFC 9111): who may store a response, and for how long.

Without a policy, and for errors, it is ``no-store``. A route's own ``Cache-Control`` is kept.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.types import Scope

from app.platform.base.components import Lifespan
from app.platform.settings import PlatformSettings

Header = tuple[bytes, bytes]

# Cached by the caller alone, and revalidated before each use: the response is personal.
PRIVATE = "private, no-cache"
YEAR = 31_536_000  # seconds; RFC 9111 needs no more
POLICY_KEY = "app.cache_policy"


class CachePolicyError(RuntimeError):
    """A route's cache policy would show a response to the wrong callers, or has no effect."""


@dataclass(frozen=True)
class CachePolicy:
    """A dependency that gives its route's responses a ``Cache-Control``."""

    cache_control: str
    vary: tuple[str, ...] = ()
    authenticated: bool = False

    async def __call__(self, request: Request) -> None:
        request.scope[POLICY_KEY] = self

    @property
    def shared(self) -> bool:
        """Whether caches that serve several callers, such as a CDN, may store the response."""
        return self.cache_control.startswith("public")

    def headers(self, given: Sequence[Header], personal: bool) -> Iterator[Header]:
        """The headers to add to a response that is no error and has the headers ``given``.

        ``personal``: the caller was authenticated.
        """
        names = {name.lower() for name, _ in given}
        if b"cache-control" not in names:
            for_one_caller = b"set-cookie" in names or (personal and not self.authenticated)
            value = PRIVATE if self.shared and for_one_caller else self.cache_control
            yield b"cache-control", value.encode()
        if self.vary:
            yield b"vary", ", ".join(self.vary).encode()


def public(
    *,
    max_age: int = 0,
    s_maxage: int | None = None,
    stale_while_revalidate: int | None = None,
    stale_if_error: int | None = None,
    vary: Sequence[str] = (),
    authenticated: bool = False,
) -> Any:
    """A dependency for responses that every cache may store: ``dependencies=[public(max_age=60)]``.

    In seconds: ``max_age`` for browsers, ``s_maxage`` for shared caches, such as a CDN, if it
    differs. ``vary``: the request headers that the response depends on. A route that authenticates
    its callers is refused at start without ``authenticated=True``: caches will give its responses
    to anyone.
    """
    directives = {
        "max-age": max_age,
        "s-maxage": s_maxage,
        "stale-while-revalidate": stale_while_revalidate,
        "stale-if-error": stale_if_error,
    }
    if any(seconds is not None and seconds < 0 for seconds in directives.values()):
        raise ValueError("Seconds of a cache policy can't be negative.")
    given = [f"{name}={seconds}" for name, seconds in directives.items() if seconds is not None]
    return Depends(CachePolicy(", ".join(["public", *given]), tuple(vary), authenticated))


def private(*, max_age: int = 0) -> Any:
    """A dependency for personal responses: the caller alone may store them, for ``max_age`` s."""
    if max_age < 0:
        raise ValueError("Seconds of a cache policy can't be negative.")
    return Depends(CachePolicy(f"private, max-age={max_age}" if max_age else PRIVATE))


def immutable(*, authenticated: bool = False) -> Any:
    """A dependency for responses that never change, because their URL names a version."""
    value = f"public, max-age={YEAR}, immutable"
    return Depends(CachePolicy(value, authenticated=authenticated))


def no_store() -> Any:
    """A dependency for responses that nobody may store: an exception in a router with a policy."""
    return Depends(CachePolicy("no-store"))


def with_policy(scope: Scope, status: int, given: list[Header], personal: bool) -> list[Header]:
    """The headers of a response, with those of its route's policy.

    An error has no ``Cache-Control`` of its own, and so gets the default.
    """
    if status >= 400:
        return [each for each in given if each[0].lower() != b"cache-control"]
    policy: CachePolicy | None = scope.get(POLICY_KEY)
    return given if policy is None else [*given, *policy.headers(given, personal)]


def check_policies(app: FastAPI) -> None:
    """Raise ``CachePolicyError`` for a policy that its route can't have."""
    for route in iter_route_contexts(app.router.routes):
        dependant = getattr(route.original_route, "dependant", None)
        calls = [each.call for each in _flat(dependant)] if dependant else []
        policy = next((call for call in reversed(calls) if isinstance(call, CachePolicy)), None)
        if policy is None:
            continue
        name = f"{'/'.join(sorted(route.methods or ()))} {route.path_format}"
        if not {*(route.methods or ())} <= {"GET", "HEAD"} and policy.cache_control != "no-store":
            raise CachePolicyError(f"{name}: only responses to GET can have a cache policy.")
        authenticates = any(isinstance(call, SecurityBase) for call in calls)
        if policy.shared and authenticates and not policy.authenticated:
            raise CachePolicyError(
                f"{name} authenticates its callers, but has a public cache policy, by which caches"
                " give its responses to anyone. Use private(), or say authenticated=True."
            )


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _flat(each)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        check_policies(app)
        yield

    return lifespan
