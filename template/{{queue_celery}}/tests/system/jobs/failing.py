"""A worker whose children fail to start, and whose heartbeat is quick."""

from typing import NoReturn

from app.platform.base import heartbeat
from app.platform.jobs import celery_worker

heartbeat.INTERVAL = 0.2


class Broken:
    """Fails in every child."""

    def __init__(self, *_: object) -> NoReturn:
        raise RuntimeError("it does not start")


celery_worker.Runner = Broken  # type: ignore[assignment, misc]
