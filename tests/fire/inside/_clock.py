"""A worker and a scheduler whose clock is wrong by ``WRONG_BY`` seconds, wherever it is asked."""

import datetime
import os
import sys
import time
from typing import Any

import app.main
import tests.platform.jobs.samples
from app.platform.jobs import JobContext, job

Right = datetime.datetime
true_time = time.time


class Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Right)


class Wrong(Right, metaclass=Kind):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return Right.fromtimestamp(wrong_time(), tz)


def wrong_time() -> float:
    return true_time() + float(os.environ["WRONG_BY"])


@job(cron="* * * * * *")
async def tick(context: JobContext) -> None:
    """Run each second."""


assert app.main
assert tests.platform.jobs.samples
time.time = wrong_time
datetime.datetime = Wrong  # type: ignore[misc]
# Those that have their own name for it already; what is imported from now on gets the wrong one.
for module in list(sys.modules.values()):
    if module.__name__.startswith(
        ("app.", "arq.", "taskiq.", "taskiq_redis.", "celery.", "kombu.")
    ):
        for name, value in list(vars(module).items()):
            if value is Right:
                setattr(module, name, Wrong)
