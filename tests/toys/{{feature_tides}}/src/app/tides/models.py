"""The table."""

from sqlalchemy import Identity
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Tide(Base):
    __tablename__ = "tides"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
