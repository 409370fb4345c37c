"""The table."""

from sqlalchemy import Identity, String
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    what: Mapped[str] = mapped_column(String(200))
