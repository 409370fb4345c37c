"""The provider's metadata and signing keys (OpenID Connect Discovery).

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
from pydantic import BaseModel, Field, ValidationError

from app.platform.settings import PlatformSettings

TIMEOUT = 5.0  # seconds for both documents
MAX_DOCUMENT_SIZE = 262_144  # bytes; the documents of large providers have about 20 000
MIN_RSA_BITS = 2048  # bits: RFC 7518, section 3.3
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}

KeyName = tuple[str, str]  # of a token's header: key id and algorithm


class ProviderError(Exception):
    """The provider is unreachable or its documents are invalid; the message says why."""


class Metadata(BaseModel):
    """The provider metadata that this service and its docs page need."""

    issuer: str = Field(examples=["https://id.example.com"])
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    jwks_uri: str = Field(examples=["https://id.example.com/keys"])
    scopes_supported: list[str] = []


@dataclass(frozen=True)
class ProviderData:
    """The provider's documents at the last successful fetch."""

    metadata: Metadata
    keys: dict[KeyName, jwt.PyJWK]


async def fetch(client: httpx2.AsyncClient, settings: PlatformSettings) -> ProviderData:
    """Fetch both documents; raises ``ProviderError``."""
    issuer = settings.oidc_issuer
    try:
        async with asyncio.timeout(TIMEOUT):
            url = issuer.rstrip("/") + "/.well-known/openid-configuration"
            metadata = Metadata.model_validate(await _get(client, url))
            _check_metadata(metadata, issuer)
            key_set = await _get(client, metadata.jwks_uri)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) or "document" for e in error.errors())
        raise ProviderError(f"its metadata is invalid: {fields}") from None
    except TimeoutError:
        raise ProviderError(f"no answer within {TIMEOUT:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ProviderError(f"{type(error).__name__}: {error}") from None
    return ProviderData(metadata, read_keys(key_set, settings.oidc_algorithms))


async def _get(client: httpx2.AsyncClient, url: str) -> Any:
    # Uncompressed, so that a small response cannot expand. Redirects are not followed.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code != httpx2.codes.OK or "content-encoding" in response.headers:
            raise ProviderError(f"{url} answered {response.status_code}")
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_DOCUMENT_SIZE:
                raise ProviderError(f"{url} is larger than {MAX_DOCUMENT_SIZE} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ProviderError(f"{url} is not JSON") from None


def _check_metadata(metadata: Metadata, issuer: str) -> None:
    if metadata.issuer != issuer:
        raise ProviderError(f"its issuer is {metadata.issuer}: OIDC_ISSUER must be identical")
    if urlsplit(metadata.jwks_uri).scheme != urlsplit(issuer).scheme:
        raise ProviderError(f"its keys are at {metadata.jwks_uri}, which is not https")


def read_keys(key_set: Any, algorithms: Iterable[str]) -> dict[KeyName, jwt.PyJWK]:
    """The public signing keys of a JWK set, by key id and each algorithm that is accepted for it.

    A token therefore cannot choose how its key is used. Other keys are ignored; raises
    ``ProviderError`` if there is no usable one.
    """
    listed = key_set.get("keys") if isinstance(key_set, dict) else None
    keys = {
        (str(each.get("kid", "")), algorithm): key
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict)
        for algorithm in algorithms
        if (key := _parse_key(each, algorithm))
    }
    if not keys:
        raise ProviderError(f"it has no key for any of {', '.join(algorithms)}")
    return keys


def _parse_key(jwk: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        if not _is_for(algorithm, jwk):
            return None
        key = jwt.PyJWK(jwk, algorithm)
        short = algorithm[:2] in ("RS", "PS") and key.key.key_size < MIN_RSA_BITS
    except Exception:  # noqa: BLE001 (one malformed key must not affect the others)
        return None
    return None if short else key


def _is_for(algorithm: str, jwk: dict[str, Any]) -> bool:
    """Whether a key is public, of the type that the algorithm needs, and intended for it."""
    return (
        jwk["kty"] == {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}[algorithm[:2]]
        and jwk.get("crv") == CURVES.get(algorithm)
        and jwk.get("use", "sig") == "sig"
        and "verify" in jwk.get("key_ops", ["verify"])
        and jwk.get("alg", algorithm) == algorithm
        and "d" not in jwk  # a published private key
    )
