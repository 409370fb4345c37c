"""Cron schedules, in UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from app.platform.jobs.registry import JobDefinition


def last_tick(cron: str, now: datetime) -> datetime:
    """Last time before ``now`` that matches ``cron``."""
    return next(CronSim(cron, now, reverse=True))


def first_tick(cron: str, after: datetime) -> datetime:
    """First time after ``after`` that matches ``cron``."""
    return next(CronSim(cron, after))


def validate(definitions: Iterable[JobDefinition]) -> None:
    """Raise ``ValueError`` for an invalid cron expression, or a job that requires arguments."""
    for definition in definitions:
        try:
            last_tick(definition.cron or "", datetime.now(UTC))
            definition.dump_arguments({})
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f"{definition.name}: cron={definition.cron!r} is invalid ({error}); "
                'write five fields, such as "*/5 * * * *" or "0 3 * * *".'
            ) from None
        except TypeError as error:
            raise ValueError(f"{error}; scheduled jobs run without arguments.") from None
