"""Valid test data of items: a test names only the fields that it is about.

The values are random, but the same in each run.
"""

from polyfactory.factories.pydantic_factory import ModelFactory
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory
from polyfactory.fields import Ignore, Use

from app.items.models import Item
from app.items.schemas import ItemCreate, PartWrite


class PartFactory(ModelFactory[PartWrite]):
    """Parts of request bodies."""

    __random_seed__ = 1


class ItemCreateFactory(ModelFactory[ItemCreate]):
    """Request bodies."""

    __random_seed__ = 1

    parts = Use(PartFactory.batch, size=2)  # by default as many as are allowed


class ItemFactory(SQLAlchemyFactory[Item]):
    """Rows; ``owner`` has to be given to find them again."""

    __random_seed__ = 1

    created_at = Ignore()  # set by the database
    updated_at = Ignore()
    version = Ignore()  # set by SQLAlchemy
