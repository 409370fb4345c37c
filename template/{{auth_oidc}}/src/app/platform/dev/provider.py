"""A small OpenID Connect provider for development and tests: it authenticates nobody.

It runs as ``python -m app.platform.dev.provider PORT`` and listens on the loopback interface.
Production cannot use it: it requires an HTTPS issuer.
"""

import base64
import hashlib
import json
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

from app.platform import about
from app.platform.settings.core import DEPLOYED

LIFETIME = 600  # seconds
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORM = """<!doctype html><html lang="en"><title>Sign in</title>
<style>body{{font:16px system-ui;max-width:24rem;margin:4rem auto}}
label{{display:block;margin:1rem 0}}input{{display:block;width:100%;padding:.4rem}}</style>
<h1>Sign in</h1><p>This is the development provider: any address will do.</p>
<form method="post">{hidden}
<label>E-mail <input name="email" type="email" value="ada@example.com" required autofocus></label>
<label>Scopes <input name="granted" value="{scope}"></label>
<button>Sign in</button></form></html>"""


class OAuthError(Exception):
    """An error code of OAuth 2."""


@dataclass
class Key:
    """A signing key."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def public(self) -> dict[str, Any]:
        jwk: dict[str, Any] = jwt.get_algorithm_by_name("ES256").to_jwk(
            self.private.public_key(), as_dict=True
        )
        return {**jwk, "kid": self.id, "use": "sig", "alg": "ES256"}


class Provider:
    """Issues authorization codes and signs tokens."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.keys = [Key()]
        self.codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        """Replace the signing key; only the new one is published."""
        self.keys = [Key()]

    def sign(self, claims: dict[str, Any], type_: str = "at+jwt") -> str:
        """A token with these claims, without those that are ``None``."""
        present = {name: value for name, value in claims.items() if value is not None}
        key = self.keys[0]
        return jwt.encode(present, key.private, "ES256", headers={"kid": key.id, "typ": type_})

    def claims(self, subject: str, scope: str = "", audience: str = "") -> dict[str, Any]:
        """The claims of an access token."""
        now = int(time.time())
        return {
            "iss": self.issuer,
            "sub": subject,
            "aud": audience or about.NAME,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": secrets.token_hex(16),
            "sid": secrets.token_hex(16),
            "scope": scope,
        }

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "scopes_supported": ["openid", "admin"],
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "client_credentials"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
        }

    def authorize(self, request: dict[str, str]) -> str:
        """The URL to redirect to, with a code; raises ``OAuthError``."""
        target = request.get("redirect_uri", "")
        if urlsplit(target).hostname not in LOOPBACK:
            raise OAuthError("invalid_redirect_uri")
        if request.get("response_type") != "code" or request.get("code_challenge_method") != "S256":
            raise OAuthError("invalid_request")
        code = secrets.token_urlsafe()
        self.codes[code] = request
        return f"{target}?{urlencode({'code': code, 'state': request.get('state', '')})}"

    def tokens(self, form: dict[str, str]) -> dict[str, Any]:
        """Tokens for a code or for any client id; raises ``OAuthError``."""
        if form.get("grant_type") == "client_credentials":
            claims = self.claims(form["client_id"], form.get("scope", ""), form.get("audience", ""))
            # For tests: additional or different claims, and another type.
            claims |= json.loads(form.get("claims", "{}"))
            return _token_response(self.sign(claims, form.get("type", "at+jwt")), claims)
        request = self._redeem_code(form)
        claims = self.claims(
            request["email"], request.get("granted", ""), request.get("audience", "")
        )
        access = self.sign(claims)
        id_claims = {
            "aud": request["client_id"],
            "nonce": request.get("nonce"),
            "at_hash": at_hash(access),
        }
        return _token_response(access, claims) | {"id_token": self.sign(claims | id_claims, "JWT")}

    def _redeem_code(self, form: dict[str, str]) -> dict[str, str]:
        """The authorization request of a code, verified with PKCE."""
        request = self.codes.pop(form.get("code", ""), None)
        if request is None or form.get("redirect_uri") != request["redirect_uri"]:
            raise OAuthError("invalid_grant")
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(verifier).rstrip(b"=").decode() != request["code_challenge"]:
            raise OAuthError("invalid_grant")
        return request


def at_hash(token: str) -> str:
    """The ``at_hash`` of an access token: OpenID Connect Core, section 3.1.3.6."""
    digest = hashlib.sha256(token.encode()).digest()[:16]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _token_response(access: str, claims: dict[str, Any]) -> dict[str, Any]:
    return {
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": LIFETIME,
        "scope": claims["scope"],
    }


def create_app(provider: Provider) -> Starlette:
    """The provider's routes, for requests and pages of this machine only."""

    async def configuration(_: Request) -> Response:
        return JSONResponse(provider.configuration())

    async def jwks(_: Request) -> Response:
        return JSONResponse({"keys": [key.public() for key in provider.keys]})

    async def login_page(request: Request) -> Response:
        query = request.query_params
        pairs = (f'name="{escape(n)}" value="{escape(v)}"' for n, v in query.items())
        hidden = "".join(f'<input type="hidden" {pair}>' for pair in pairs)
        return HTMLResponse(FORM.format(hidden=hidden, scope=escape(query.get("scope", ""))))

    async def authorize(request: Request) -> Response:
        try:
            return RedirectResponse(provider.authorize(await _form(request)), 303)
        except OAuthError as error:
            return JSONResponse({"error": str(error)}, 400)

    async def token(request: Request) -> Response:
        try:
            return JSONResponse(provider.tokens(await _form(request)))
        except (OAuthError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)

    async def pid(_: Request) -> Response:
        return PlainTextResponse(str(os.getpid()))

    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", configuration),
            Route("/jwks", jwks),
            Route("/authorize", login_page),
            Route("/authorize", authorize, methods=["POST"]),
            Route("/token", token, methods=["POST"]),
            Route("/pid", pid),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK]),
            Middleware(
                CORSMiddleware, allow_origin_regex=r"http://(127\.0\.0\.1|localhost)(:\d+)?"
            ),
        ],
    )


async def _form(request: Request) -> dict[str, str]:
    async with request.form() as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


def main(port: int) -> None:
    """Serve until stopped."""
    if os.environ.get("ENVIRONMENT") in DEPLOYED:
        sys.exit("This provider authenticates nobody: it is for development and tests.")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        app = create_app(Provider(f"http://127.0.0.1:{port}"))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
