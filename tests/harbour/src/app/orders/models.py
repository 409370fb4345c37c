"""The table."""

from sqlalchemy import Identity, String
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = ({"info": {"outlives_account": "the books keep orders for ten years"}},)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    what: Mapped[str] = mapped_column(String(200))
