"""When scheduled jobs are due: cron expressions, in UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from app.platform.jobs.registry import JobDefinition


def last_tick(cron: str, now: datetime) -> datetime:
    """Return the last time before ``now`` at which the schedule was due."""
    return next(CronSim(cron, now, reverse=True))


def check(kinds: Iterable[JobDefinition]) -> None:
    """Raise ``ValueError`` for a schedule that can't work."""
    for kind in kinds:
        try:
            last_tick(kind.cron or "", datetime.now(UTC))
            kind.to_json({})
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f"{kind.name}: cron={kind.cron!r} is no schedule ({error}); "
                'write five fields such as "*/5 * * * *" or "0 3 * * *".'
            ) from None
        except TypeError as error:
            raise ValueError(f"{error}: but the clock starts it, without arguments.") from None
