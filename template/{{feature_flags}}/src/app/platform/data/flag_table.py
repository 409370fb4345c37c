"""The table of feature flags."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Flag(Base):
    """A flag: its value for ``users``, and for ``percentage`` of all others."""

    __tablename__ = "feature_flags"
    __table_args__ = (
        CheckConstraint("percentage BETWEEN 0 AND 100", name="percentage"),
        {"info": {"outlives_account": "a flag has ids, and nothing else about users"}},
    )

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    percentage: Mapped[int]
    users: Mapped[list[str]] = mapped_column(ARRAY(Text))
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    changed_by: Mapped[str] = mapped_column(Text)
