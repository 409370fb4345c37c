"""Accounts: registration and authentication by password."""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from email_validator import EmailNotValidError, validate_email
from fastapi import FastAPI, Request
from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.platform.auth import account_limits, grants
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.models import Account, LoginSession
from app.platform.auth.passwords import Passwords
from app.platform.base.errors import Conflict, Forbidden, Unauthorized
from app.platform.data.database import Database, ReadSession
from app.platform.data.mail import MailTemplates
from app.platform.http import audit, rate_limit
from app.platform.http.gcra import RateLimiter
from app.platform.settings import PlatformSettings


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


class NotVerified(Forbidden):
    """The password is right, but the address of the account is not confirmed."""

    code = "email_not_verified"

    def __init__(self) -> None:
        super().__init__("Confirm your e-mail address first: ask for a link if you have none.")


def is_usable(email: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions of an account with an address that is not disabled."""
    return func.lower(Account.email) == func.lower(normalise(email)), Account.disabled_at.is_(None)


@dataclass(frozen=True)
class Identity:
    """The account that was authenticated, and a keyed hash of its client's address.

    ``is_new_client``: whether it has been used before, and never from this client.
    """

    id: UUID
    scopes: frozenset[str]
    client_hash: bytes
    email: str
    is_new_client: bool
    password_hash: str


class Accounts:
    """Registration and authentication; no database connection is held while hashing."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._passwords = Passwords(settings)

    async def register(self, request: Request, email: str, password: SecretStr) -> UUID:
        """Create an account, and send a link to confirm its address; return its id.

        If the address has an account: with ``EMAIL_VERIFICATION=required``, its owner gets a mail,
        and the caller an id that means nothing, so that they learn nothing. Otherwise raises
        ``Conflict``, which tells them; a neutral response would not help, since they could try to
        log in next. The rate limit protects against checking lists of addresses.
        """
        if not self._settings.registration_open:
            raise Forbidden("Accounts are created by an administrator.")
        client = await rate_limit.client_key(request)
        await rate_limit.check_rate_limit(
            request, "registration", self._settings.registration_limit, client
        )
        if self._hides_accounts:
            await account_limits.check_mail(request, email)
        account_id = uuid4()
        values = {"id": account_id, "email": email}
        values["password_hash"] = await self._passwords.hash_new(password)
        statement = insert(Account).values(values).on_conflict_do_nothing().returning(Account.id)
        async with self._database.transaction() as db:
            created = (await db.execute(statement)).scalar_one_or_none()
            if created:
                await self._mails.send_link(
                    db,
                    *("verify_email", "verify_email", created, email),
                    at_once=not self._hides_accounts,
                )
            elif self._hides_accounts:
                owner = await db.execute(select(Account.id).where(*is_usable(email)))
                await self._mails.send_link(
                    db,
                    *("already_registered", "reset_password", owner.scalar(), email),
                    at_once=False,
                )
        if created:
            audit.succeeded(request, "register", str(account_id))
            return account_id
        audit.refused(request, "register", "taken")
        if not self._hides_accounts:
            raise Conflict("An account with this e-mail address already exists.")
        return account_id

    @property
    def _hides_accounts(self) -> bool:
        """Whether a registration hides who has an account."""
        return self._settings.email_verification == "required"

    async def authenticate(self, request: Request, email: str, password: SecretStr) -> Identity:
        """The account of a password; raises the same ``Unauthorized`` for every failure.

        Unknown addresses take as long as known ones, and are rate limited in the same way.
        """
        email = normalise(email)
        client = await rate_limit.client_key(request)
        await rate_limit.check_rate_limit(
            request, "login", self._settings.login_limit_client, client
        )
        hashes = account_limits.client_hashes(self._settings, client, email)
        client_hash = hashes[0]
        known = account_limits.is_known_client(hashes)
        used = select(LoginSession.id).where(LoginSession.account_id == Account.id)
        row = await self._reader.first(
            select(
                Account.id,
                Account.password_hash,
                Account.scopes,
                grants.of_account(),
                Account.disabled_at,
                Account.verified_at,
                Account.email,
                known.label("known_client"),
                used.exists().label("was_used"),
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
        if self._hides_accounts and row.verified_at is None:
            audit.refused(request, "login", "not verified", str(row.id))
            raise NotVerified
        if new_hash:
            async with self._database.transaction() as db:
                # Unless it has changed since: this would bring the old password back.
                same = (Account.id == row.id, Account.password_hash == row.password_hash)
                await db.execute(update(Account).where(*same).values(password_hash=new_hash))
        await self._limiter.reset("login-account-client", client_hash.hex())
        is_new_client = row.was_used and not row.known_client
        scopes = grants.scopes_of(self._app.state.roles, row.roles).union(row.scopes)
        password_hash = new_hash or row.password_hash
        return Identity(row.id, scopes, client_hash, row.email, is_new_client, password_hash)

    async def confirm_password(
        self, request: Request, account_id: UUID, password: SecretStr
    ) -> Account:
        """The account of a session that gave its password again; raises ``Forbidden`` otherwise.

        Somebody who has taken a session over may guess ``REAUTHENTICATION_LIMIT`` times.
        """
        limit = self._settings.reauthentication_limit
        result = await self._limiter.hit("reauthentication", limit, str(account_id))
        if not result.allowed:
            audit.refused(request, "reauthenticate", "limited", str(account_id))
            raise rate_limit.too_many_requests(result)
        columns = (Account.id, Account.email, Account.password_hash)
        row = await self._reader.first(select(*columns).where(Account.id == account_id))
        right, _ = await self._passwords.verify(password, row.password_hash if row else None)
        if row is None or not right:
            audit.refused(request, "reauthenticate", "password", str(account_id))
            raise Forbidden("The password is wrong.")
        await self._limiter.reset("reauthentication", str(account_id))
        return Account(id=row.id, email=row.email)

    async def hash(self, password: SecretStr) -> str:
        """The hash to store of a new password; raises ``CommonPassword``."""
        return await self._passwords.hash_new(password)

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
    def _mails(self) -> AccountMails:
        mails: AccountMails = self._app.state.account_mails
        return mails

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


def setup(
    app: FastAPI, settings: PlatformSettings, roles: grants.Roles, templates: MailTemplates
) -> None:
    """Keep what accounts need of the service in the state of the app."""
    app.state.roles = roles
    app.state.account_mails = AccountMails(settings, templates)
    app.state.accounts = Accounts(app, settings)
