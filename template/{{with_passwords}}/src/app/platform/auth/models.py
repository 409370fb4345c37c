"""Tables: accounts, the tokens of their mails, and login sessions."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, DateTime, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.orm import Mapped, column_property, mapped_column

from app.platform.data.database import Base


class Account(Base):
    """An account with e-mail address, password and scopes."""

    __tablename__ = "accounts"
    __table_args__ = (
        Index("uq_accounts_lower_email", text("lower(email)"), unique=True),
        Index("ix_accounts_created_at_id", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(Text)
    password_hash: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # To filter by, and never loaded.
    is_disabled: Mapped[bool] = column_property(disabled_at.is_not(None), deferred=True)


class AccountToken(Base):
    """A link in a mail that has not been used: for one ``purpose``, until ``expires_at``.

    The token in the link is the id, signed, and is not stored. ``email``: the address that it was
    sent to. Without an account, it is a decoy, for an address that has none.
    """

    __tablename__ = "account_tokens"
    __table_args__ = (Index("ix_account_tokens_expires_at", "expires_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    purpose: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class LoginSession(Base):
    """A login session: active until ``expires_at``, which use extends up to ``ends_at``.

    ``client_hash``: a keyed hash of the address that logged in. ``user_agent``: the header of that
    login, shown to the owner. ``refreshed_at``: when ``secret_hash`` was last replaced; ``None``
    before the first refresh.
    """

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    client_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    user_agent: Mapped[str] = mapped_column(Text, server_default="")
    refreshed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ends_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
