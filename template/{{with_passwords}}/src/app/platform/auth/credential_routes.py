"""Routes that confirm an address, and change or reset a password or an address.

Those that anyone may call answer the same, after the same work, whether or not there is an account.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import account_limits, account_tokens, audit_log, credentials
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.account_routes import AccountsDep
from app.platform.auth.account_tokens import InvalidToken
from app.platform.auth.accounts import NewEmail
from app.platform.auth.audit_log import actor_of
from app.platform.auth.current import CurrentUser
from app.platform.auth.passwords import CommonPassword, GivenPassword, NewPassword
from app.platform.base.errors import Conflict, Forbidden, TooManyRequests, Unauthorized
from app.platform.data.database import SessionDep
from app.platform.http import rate_limit
from app.platform.http.problems import responses
from app.platform.http.schemas import ENCODABLE, RequestModel, ResponseModel, SecretLength
from app.platform.settings import PlatformSettings

router = APIRouter()

Token = Annotated[SecretStr, Field(examples=["tk_example"]), SecretLength(1, 256), ENCODABLE]
EMAIL = Field(examples=["ada@example.com"])
PASSWORD = Field(examples=["correct horse battery"])
NEW_PASSWORD = Field(examples=["another horse battery"])


class Address(RequestModel):
    email: NewEmail = EMAIL


class LinkToken(RequestModel):
    """``token``: what follows `#token=` in the link of a mail."""

    token: Token


class PasswordReset(RequestModel):
    token: Token
    new_password: NewPassword = NEW_PASSWORD


class PasswordChange(RequestModel):
    password: GivenPassword = PASSWORD
    new_password: NewPassword = NEW_PASSWORD


class EmailChange(RequestModel):
    password: GivenPassword = PASSWORD
    email: NewEmail = EMAIL


class Accepted(ResponseModel):
    """The same for every address, so that it tells nobody who has an account."""

    detail: str = "If this address is eligible, a mail with a link is on its way."


@router.post("/verify-email/send", status_code=202, responses=responses(TooManyRequests))
async def send_verification(body: Address, request: Request, db: SessionDep) -> Accepted:
    """Send a link to confirm an address once more."""
    await account_limits.check_mail(request, body.email)
    await credentials.send_verification(db, _mails(request), body.email)
    return Accepted()


@router.post("/verify-email", status_code=204, responses=responses(InvalidToken, TooManyRequests))
async def verify_email(body: LinkToken, request: Request, db: SessionDep) -> None:
    """Confirm an address by the token of the link that it received."""
    await _limit_tokens(request)
    token = body.token.get_secret_value()
    account_id = await credentials.verify_email(db, _settings(request), token)
    await _record(db, request, "verify_email", str(account_id))


@router.post("/forgot-password", status_code=202, responses=responses(TooManyRequests))
async def forgot_password(body: Address, request: Request, db: SessionDep) -> Accepted:
    """Send a link to choose a new password."""
    await account_limits.check_mail(request, body.email)
    await credentials.send_reset(db, _mails(request), body.email)
    return Accepted()


@router.post(
    "/reset-password",
    status_code=204,
    responses=responses(InvalidToken, CommonPassword, TooManyRequests),
)
async def reset_password(
    body: PasswordReset, request: Request, accounts: AccountsDep, db: SessionDep
) -> None:
    """Choose a new password by the token of a link; every session ends."""
    await _limit_tokens(request)
    token = body.token.get_secret_value()
    account_tokens.read_id(_settings(request), token)  # an invented one costs no hash
    password_hash = await accounts.hash(body.new_password)
    account_id = await credentials.reset_password(db, _mails(request), token, password_hash)
    await _record(db, request, "reset_password", str(account_id))


@router.post(
    "/change-password",
    status_code=204,
    responses=responses(CommonPassword, Unauthorized, Forbidden, TooManyRequests),
)
async def change_password(
    body: PasswordChange,
    user: CurrentUser,
    request: Request,
    accounts: AccountsDep,
    db: SessionDep,
) -> None:
    """Change your password; all of your other sessions end."""
    account = await accounts.confirm_password(request, UUID(user.id), body.password)
    password_hash = await accounts.hash(body.new_password)
    mails, session_id = _mails(request), UUID(user.credential)
    await credentials.change_password(db, mails, account, session_id, password_hash)
    await _record(db, request, "change_password", user.id)


@router.post(
    "/change-email", status_code=202, responses=responses(Unauthorized, Forbidden, TooManyRequests)
)
async def change_email(
    body: EmailChange,
    user: CurrentUser,
    request: Request,
    accounts: AccountsDep,
    db: SessionDep,
) -> Accepted:
    """Send a link to your new address; the account has it once the link is used."""
    account = await accounts.confirm_password(request, UUID(user.id), body.password)
    await account_limits.check_mail(request, body.email)
    await credentials.send_change(db, _mails(request), account, body.email)
    return Accepted()


@router.post(
    "/confirm-email",
    status_code=204,
    responses=responses(InvalidToken, Conflict, TooManyRequests),
)
async def confirm_email(body: LinkToken, request: Request, db: SessionDep) -> None:
    """Confirm the new address of an account; the old one gets a notice."""
    await _limit_tokens(request)
    token = body.token.get_secret_value()
    account_id = await credentials.change_email(db, _mails(request), token)
    await _record(db, request, "change_email", str(account_id))


async def _limit_tokens(request: Request) -> None:
    """Count an attempt to use a token: each may cost a password hash."""
    client = await rate_limit.client_key(request)
    limit = _settings(request).login_limit_client
    await rate_limit.check_rate_limit(request, "token", limit, client)


async def _record(db: AsyncSession, request: Request, action: str, account_id: str) -> None:
    """Record what the owner of an account has done to it."""
    await audit_log.record(db, actor_of(request, account_id), action, account_id)


def _settings(request: Request) -> PlatformSettings:
    settings: PlatformSettings = request.app.state.settings
    return settings


def _mails(request: Request) -> AccountMails:
    mails: AccountMails = request.app.state.account_mails
    return mails
