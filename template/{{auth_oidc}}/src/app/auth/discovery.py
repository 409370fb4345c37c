"""What the provider publishes: where to sign in, and the keys that its tokens are signed with.

https://openid.net/specs/openid-connect-discovery-1_0.html
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
from pydantic import BaseModel, ValidationError

from app.settings import Settings

TIMEOUT = 5.0  # seconds that the provider has for both documents
LARGEST = 262_144  # bytes of a document; those of large providers have about 20 000
SMALLEST_RSA = 2048  # bits: RFC 7518, section 3.3
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}

Name = tuple[str, str]  # what a token's header says: key id and algorithm


class ProviderError(Exception):
    """The provider can't be reached, or what it says can't be used. The message says why."""


class Metadata(BaseModel):
    """The part of a provider's configuration that this service, and its docs page, needs."""

    issuer: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    jwks_uri: str
    scopes_supported: list[str] = []


@dataclass(frozen=True)
class Published:
    """What the provider said when it was last asked."""

    metadata: Metadata
    keys: dict[Name, jwt.PyJWK]


async def fetch(client: httpx2.AsyncClient, settings: Settings) -> Published:
    """Ask the provider; raise ``ProviderError``."""
    issuer = settings.oidc_issuer
    try:
        async with asyncio.timeout(TIMEOUT):
            address = issuer.rstrip("/") + "/.well-known/openid-configuration"
            metadata = Metadata.model_validate(await _get(client, address))
            _refuse_impostor(metadata, issuer)
            key_set = await _get(client, metadata.jwks_uri)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, each["loc"])) or "it" for each in error.errors())
        raise ProviderError(f"its configuration is not valid: {wrong}") from None
    except TimeoutError:
        raise ProviderError(f"no answer within {TIMEOUT:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ProviderError(f"{type(error).__name__}: {error}") from None
    return Published(metadata, read_keys(key_set, settings.oidc_algorithms))


async def _get(client: httpx2.AsyncClient, address: str) -> Any:
    # Uncompressed, so that a small answer can't become a large one. Redirects are not followed.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with client.stream("GET", address, headers=headers) as answer:
        if answer.status_code != httpx2.codes.OK or "content-encoding" in answer.headers:
            raise ProviderError(f"{address} answered {answer.status_code}")
        body = b""
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > LARGEST:
                raise ProviderError(f"{address} is larger than {LARGEST} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ProviderError(f"{address} is no JSON") from None


def _refuse_impostor(metadata: Metadata, issuer: str) -> None:
    if metadata.issuer != issuer:
        raise ProviderError(f"it calls itself {metadata.issuer}: OIDC_ISSUER has to be just that")
    if urlsplit(metadata.jwks_uri).scheme != urlsplit(issuer).scheme:
        raise ProviderError(f"its keys are at {metadata.jwks_uri}, which is not https")


def read_keys(key_set: Any, algorithms: Iterable[str]) -> dict[Name, jwt.PyJWK]:
    """Return the keys of a JWK set, each under the algorithms that it may be used with here.

    So a token can't choose how its key is used. What is no key for signatures is left out; raises
    ``ProviderError`` if nothing is left.
    """
    listed = key_set.get("keys") if isinstance(key_set, dict) else None
    keys = {
        (str(each.get("kid", "")), algorithm): key
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict)
        for algorithm in algorithms
        if (key := _key(each, algorithm))
    }
    if not keys:
        raise ProviderError(f"none of its keys is for one of {', '.join(algorithms)}")
    return keys


def _key(given: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        if not _is_for(algorithm, given):
            return None
        key = jwt.PyJWK(given, algorithm)
        short = algorithm[:2] in ("RS", "PS") and key.key.key_size < SMALLEST_RSA
    except Exception:  # noqa: BLE001 (one key that can't be read must not take the others with it)
        return None
    return None if short else key


def _is_for(algorithm: str, given: dict[str, Any]) -> bool:
    """Tell whether a key is public, of the kind that an algorithm takes, and meant for it."""
    return (
        given["kty"] == {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}[algorithm[:2]]
        and given.get("crv") == CURVES.get(algorithm)
        and given.get("use", "sig") == "sig"
        and "verify" in given.get("key_ops", ["verify"])
        and given.get("alg", algorithm) == algorithm
        and "d" not in given  # else everybody could sign with it
    )
