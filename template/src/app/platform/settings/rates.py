"""Rates in settings: ``100/minute``, ``10/15 minutes``, ``off``."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

MIN_INTERVAL = 10  # microseconds between two requests, which are counted as whole numbers
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True, slots=True)
class Rate:
    """``limit`` requests per ``window`` seconds."""

    limit: int
    window: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rate that ``text`` stands for. Raises ``ValueError`` if it stands for none."""
        match = re.fullmatch(r"([1-9]\d{0,8})/(?:([1-9]\d?) )?(second|minute|hour|day)s?", text)
        if not match:
            raise ValueError("is not a rate; write it as 100/minute or 10/15 minutes")
        limit, count, unit = match.groups()
        rate = cls(int(limit), int(count or 1) * UNITS[unit])
        if rate.interval < MIN_INTERVAL:
            raise ValueError(f"allows more than {1_000_000 // MIN_INTERVAL} requests a second")
        return rate

    @property
    def interval(self) -> int:
        """Microseconds between two requests at a constant rate."""
        return self.window * 1_000_000 // self.limit


def _rate(value: object) -> object:
    return Rate.parse(value) if isinstance(value, str) else value


def _optional_rate(value: object) -> object:
    return None if value == "off" else _rate(value)


RateSetting = Annotated[Rate, NoDecode, BeforeValidator(_rate)]
OptionalRate = Annotated[Rate | None, NoDecode, BeforeValidator(_optional_rate)]
