"""Surrogate keys: names of what a response was made of, by which a CDN purges it.

A part of the cache policy, since only responses that a CDN may store have keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Depends, Request

from app.platform.data.cdn import Cdn, Provider, to_key
from app.platform.http.cache_policy import POLICY_KEY, PRIVATE, CachePolicy, Header
from app.platform.observability.logs import get_logger

logger = get_logger(__name__)

MAX_HEADER = 4000  # bytes: CDNs take 16 KB, proxies in between often 4 or 8 KB for all headers


@dataclass(frozen=True)
class TaggedPolicy(CachePolicy):
    """A public policy whose responses have keys. ``provider``: ``None`` without a CDN."""

    templates: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    provider: Provider | None = None

    async def __call__(self, request: Request) -> None:
        cdn: Cdn = request.app.state.cdn
        keys = tuple(to_key(each.format(**request.path_params)) for each in self.templates)
        request.scope[POLICY_KEY] = replace(self, keys=keys, provider=cdn.provider)

    def headers(self, given: Sequence[Header], personal: bool) -> Iterator[Header]:
        added = list(super().headers(given, personal))
        control = next((v for k, v in [*given, *added] if k.lower() == b"cache-control"), b"")
        if self.provider is None or not control.startswith(b"public"):
            yield from added
            return
        value = self.provider.separator.join(dict.fromkeys(self.keys))
        if len(value) <= MAX_HEADER:
            yield from added
            yield self.provider.header.lower().encode(), value.encode()
            return
        # Stored without all of its keys, it would outlive what it shows.
        logger.warning("too many surrogate keys for one response", keys=len(self.keys))
        yield from (each for each in added if each[0] != b"cache-control")
        yield b"cache-control", PRIVATE.encode()


def tagged(policy: Any, *keys: str) -> Any:
    """A dependency: ``policy``, such as ``public(s_maxage=3600)``, with keys.

    ``dependencies=[tagged(public(s_maxage=3600), "products", "product-{product_id}")]``, where
    names in braces are path parameters. Raises ``ValueError`` if no CDN may store the responses.
    """
    given = getattr(policy, "dependency", None)
    if not isinstance(given, CachePolicy) or not given.shared:
        raise ValueError("Only responses with a public cache policy have surrogate keys.")
    if not keys:
        raise ValueError("Name at least one surrogate key.")
    return Depends(
        TaggedPolicy(given.cache_control, given.vary, given.authenticated, templates=keys)
    )


def add_keys(request: Request, *keys: object) -> None:
    """Add keys that only the response's content decides, such as one for each row of a list."""
    policy = request.scope.get(POLICY_KEY)
    if not isinstance(policy, TaggedPolicy):
        raise TypeError("The route has no tagged() cache policy.")
    added = (*policy.keys, *map(to_key, keys))
    request.scope[POLICY_KEY] = replace(policy, keys=added)
