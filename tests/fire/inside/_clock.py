"""A worker and a scheduler whose clock is off by ``CLOCK_OFFSET`` seconds."""

import datetime
import os
import sys
import time
from typing import Any

import app.main
import tests.platform.jobs.samples
from app.platform.jobs import JobContext, job

RealDatetime = datetime.datetime
real_time = time.time


class InstanceCheck(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, RealDatetime)


class WrongDatetime(RealDatetime, metaclass=InstanceCheck):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return RealDatetime.fromtimestamp(wrong_time(), tz)


def wrong_time() -> float:
    return real_time() + float(os.environ["CLOCK_OFFSET"])


@job(cron="* * * * * *")
async def tick(context: JobContext) -> None:
    """Do nothing, every second."""


assert app.main
assert tests.platform.jobs.samples
time.time = wrong_time
datetime.datetime = WrongDatetime  # type: ignore[misc]
# Modules that have already imported the class; later imports get the patched one.
for module in list(sys.modules.values()):
    if module.__name__.startswith(
        ("app.", "arq.", "taskiq.", "taskiq_redis.", "celery.", "kombu.")
    ):
        for name, value in list(vars(module).items()):
            if value is RealDatetime:
                setattr(module, name, WrongDatetime)
