"""A small OpenID Connect provider, for development and tests: it believes whatever it is told.

It runs as ``python -m app.platform.dev.provider PORT``, for this machine alone. Production can't
be made to trust it: issuers have to be https there, and this one is not.
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
HERE = ("127.0.0.1", "localhost", "::1")
FORM = """<!doctype html><html lang="en"><title>Sign in</title>
<style>body{{font:16px system-ui;max-width:24rem;margin:4rem auto}}
label{{display:block;margin:1rem 0}}input{{display:block;width:100%;padding:.4rem}}</style>
<h1>Sign in</h1><p>This is the provider of development: be whoever you want to be.</p>
<form method="post">{hidden}
<label>E-mail <input name="email" type="email" value="ada@example.com" required autofocus></label>
<label>Scopes <input name="granted" value="{scope}"></label>
<button>Sign in</button></form></html>"""


class Refused(Exception):
    """What OAuth calls an error, by its code."""


@dataclass
class Key:
    """A key that tokens are signed with."""

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
    """Signs tokens, and remembers the codes that it gave."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.keys = [Key()]
        self.codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish that one alone."""
        self.keys = [Key()]

    def sign(self, claims: dict[str, Any], kind: str = "at+jwt") -> str:
        """Sign claims as they are, leaving out those that are ``None``."""
        said = {name: value for name, value in claims.items() if value is not None}
        key = self.keys[0]
        return jwt.encode(said, key.private, "ES256", headers={"kid": key.id, "typ": kind})

    def claims(self, subject: str, scope: str = "", audience: str = "") -> dict[str, Any]:
        """Say what an access token says of somebody."""
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

    def give_code(self, asked: dict[str, str]) -> str:
        """Return where to send the browser, with a code; raise ``Refused``."""
        target = asked.get("redirect_uri", "")
        if urlsplit(target).hostname not in HERE:
            raise Refused("invalid_redirect_uri")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            raise Refused("invalid_request")
        code = secrets.token_urlsafe()
        self.codes[code] = asked
        return f"{target}?{urlencode({'code': code, 'state': asked.get('state', '')})}"

    def tokens(self, form: dict[str, str]) -> dict[str, Any]:
        """Return tokens for a code, or for whoever a client says that it is; raise ``Refused``."""
        if form.get("grant_type") == "client_credentials":
            claims = self.claims(form["client_id"], form.get("scope", ""), form.get("audience", ""))
            # For tests: what the token says besides, or instead, and what it says that it is.
            claims |= json.loads(form.get("claims", "{}"))
            return _answer(self.sign(claims, form.get("kind", "at+jwt")), claims)
        asked = self._asked(form)
        claims = self.claims(asked["email"], asked.get("granted", ""), asked.get("audience", ""))
        access = self.sign(claims)
        login = {"aud": asked["client_id"], "nonce": asked.get("nonce"), "at_hash": half(access)}
        return _answer(access, claims) | {"id_token": self.sign(claims | login, "JWT")}

    def _asked(self, form: dict[str, str]) -> dict[str, str]:
        """Return what a code was given for, to whoever can prove that they asked for it."""
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            raise Refused("invalid_grant")
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(verifier).rstrip(b"=").decode() != asked["code_challenge"]:
            raise Refused("invalid_grant")
        return asked


def half(token: str) -> str:
    """Return how an ID token names its access token: OpenID Connect Core, section 3.1.3.6."""
    digest = hashlib.sha256(token.encode()).digest()[:16]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _answer(access: str, claims: dict[str, Any]) -> dict[str, Any]:
    return {
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": LIFETIME,
        "scope": claims["scope"],
    }


def create_app(provider: Provider) -> Starlette:
    """Serve a provider to this machine: other hosts, and pages of other sites, are turned away."""

    async def configuration(_: Request) -> Response:
        return JSONResponse(provider.configuration())

    async def jwks(_: Request) -> Response:
        return JSONResponse({"keys": [key.public() for key in provider.keys]})

    async def ask(request: Request) -> Response:
        asked = request.query_params
        pairs = (f'name="{escape(n)}" value="{escape(v)}"' for n, v in asked.items())
        hidden = "".join(f'<input type="hidden" {pair}>' for pair in pairs)
        return HTMLResponse(FORM.format(hidden=hidden, scope=escape(asked.get("scope", ""))))

    async def sign_in(request: Request) -> Response:
        try:
            return RedirectResponse(provider.give_code(await _form(request)), 303)
        except Refused as error:
            return JSONResponse({"error": str(error)}, 400)

    async def token(request: Request) -> Response:
        try:
            return JSONResponse(provider.tokens(await _form(request)))
        except (Refused, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)

    async def pid(_: Request) -> Response:
        return PlainTextResponse(str(os.getpid()))

    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", configuration),
            Route("/jwks", jwks),
            Route("/authorize", ask),
            Route("/authorize", sign_in, methods=["POST"]),
            Route("/token", token, methods=["POST"]),
            Route("/pid", pid),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*HERE]),
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
        sys.exit("This provider believes everybody: it is for development and tests.")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        app = create_app(Provider(f"http://127.0.0.1:{port}"))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
