"""When scheduled jobs are due: cron expressions, in UTC."""

from collections.abc import Iterable
from datetime import datetime

from cronsim import CronSim, CronSimError

from app.jobs.registry import JobType


def last_tick(cron: str, now: datetime) -> datetime:
    """Return the last time before ``now`` at which the schedule was due."""
    return next(CronSim(cron, now, reverse=True))


def check(kinds: Iterable[JobType]) -> None:
    """Raise ``ValueError`` for a schedule that can't work."""
    for kind in kinds:
        try:
            next(CronSim(kind.cron or "", datetime(2024, 1, 1)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f"{kind.name}: cron={kind.cron!r} is no schedule ({error}); "
                'write five fields such as "*/5 * * * *" or "0 3 * * *".'
            ) from None
        try:
            kind.to_json({})
        except TypeError as error:
            raise ValueError(f"{kind.name} is started by the clock, without arguments: {error}") from None
