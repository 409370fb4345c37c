"""Accounts: registration and authentication by password."""

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from email_validator import EmailNotValidError, validate_email
from fastapi import FastAPI, Request
from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.auth.models import Account, LoginSession
from app.auth.passwords import Passwords
from app.platform.base import signing
from app.platform.base.errors import Conflict, Forbidden, Unauthorized
from app.platform.data.database import Database, ReadSession
from app.platform.http import audit, rate_limit
from app.platform.http.gcra import RateLimiter
from app.settings import Settings


def normalise(email: str) -> str:
    """The canonical form in which addresses are stored and looked up."""
    return unicodedata.normalize("NFC", email.strip()).lower()


def _address(text: str) -> str:
    """Accept what OpenAPI's `email` format allows, including `.test` domains."""
    try:
        valid = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise ValueError(f"not an e-mail address: {error}") from None
    return normalise(valid.normalized)


# 254: the longest address that SMTP can carry (RFC 5321, erratum 1690).
NewEmail = Annotated[
    str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_address)
]
BAD_CREDENTIALS = "The e-mail address or the password is wrong."


@dataclass(frozen=True)
class Identity:
    """The account that was authenticated, and a keyed hash of its client's address."""

    id: UUID
    scopes: frozenset[str]
    client_hash: bytes


class Accounts:
    """Registration and authentication; no database connection is held while hashing."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._passwords = Passwords(settings)
        self._client_keys = signing.derive_keys(settings, "login client")

    async def register(self, request: Request, email: str, password: SecretStr) -> UUID:
        """Create an account; raise ``Conflict`` if the address has one.

        This reveals who has an account. A neutral response would not hide it: the caller could try
        to log in next. Only a confirmation by e-mail would, which this service does not send. The
        rate limit protects against checking lists of addresses.
        """
        if not self._settings.registration_open:
            raise Forbidden("Accounts are created by an administrator.")
        client = await rate_limit.client_key(request)
        await rate_limit.check_rate_limit(
            request, "registration", self._settings.registration_limit, client
        )
        account_id = uuid4()
        values = {"id": account_id, "email": email}
        values["password_hash"] = await self._passwords.hash(password)
        statement = insert(Account).values(values).on_conflict_do_nothing().returning(Account.id)
        async with self._database.transaction() as db:
            created = (await db.execute(statement)).scalar_one_or_none()
        if created is None:
            audit.refused(request, "register", "taken")
            raise Conflict("An account with this e-mail address already exists.")
        audit.succeeded(request, "register", str(account_id))
        return account_id

    async def authenticate(self, request: Request, email: str, password: SecretStr) -> Identity:
        """The account of a password; raises the same ``Unauthorized`` for every failure.

        Unknown addresses take as long as known ones, and are rate limited in the same way.
        """
        email = normalise(email)
        client = await rate_limit.client_key(request)
        await rate_limit.check_rate_limit(
            request, "login", self._settings.login_limit_client, client
        )
        hashes = [
            hmac.digest(key, f"{client} {email}".encode(), hashlib.sha256)
            for key in self._client_keys
        ]
        client_hash = hashes[0]
        known = select(LoginSession.id).where(
            LoginSession.account_id == Account.id, LoginSession.client_hash.in_(hashes)
        )
        row = await self._reader.first(
            select(
                Account.id,
                Account.password_hash,
                Account.scopes,
                Account.disabled_at,
                known.exists().label("known_client"),
            ).where(func.lower(Account.email) == func.lower(email))
        )
        account = hashlib.sha256(email.encode()).hexdigest()
        await self._limit_guesses(
            request, account, client_hash.hex(), known=row is not None and row.known_client
        )
        right, new_hash = await self._passwords.verify(password, row.password_hash if row else None)
        if row is None or not right or row.disabled_at:
            reason = "unknown" if row is None else "disabled" if right else "password"
            audit.refused(request, "login", reason, str(row.id) if row else None)
            raise Unauthorized(BAD_CREDENTIALS)
        if new_hash:
            async with self._database.transaction() as db:
                await db.execute(
                    update(Account).where(Account.id == row.id).values(password_hash=new_hash)
                )
        await self._limiter.reset("login-account-client", client_hash.hex())
        return Identity(row.id, frozenset(row.scopes), client_hash)

    async def _limit_guesses(
        self, request: Request, account: str, client: str, *, known: bool
    ) -> None:
        """Count an attempt on an account; no header shows these limits.

        Each client has a limit of its own. Clients from which the account has never logged in also
        share one, so that attempts from many addresses are bounded, and lock out no known client.
        """
        limits = [("login-account-client", self._settings.login_limit_account_client, client)]
        if not known:
            limits.append(("login-account", self._settings.login_limit_account, account))
        for name, rate, key in limits:
            result = await self._limiter.hit(name, rate, key)
            if not result.allowed:
                audit.refused(request, "login", f"limited by {name.removeprefix('login-')}")
                raise rate_limit.too_many_requests(result)

    @property
    def _database(self) -> Database:
        database: Database = self._app.state.db
        return database

    @property
    def _reader(self) -> ReadSession:
        reader: ReadSession = self._app.state.read_session
        return reader

    @property
    def _limiter(self) -> RateLimiter:
        limiter: RateLimiter = self._app.state.limiter
        return limiter
