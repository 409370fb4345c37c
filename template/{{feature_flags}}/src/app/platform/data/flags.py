"""Feature flags, by OpenFeature: rows of a table, kept in each process, evaluated without a query.

A change reaches every process within ``FLAGS_REFRESH`` seconds. While the database is unavailable,
the last values stay. ``FLAGS`` fixes values, whatever the table says.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar
from uuid import uuid4

from fastapi import Depends, FastAPI
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, Reason
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import AbstractProvider
from openfeature.provider.metadata import Metadata
from openfeature.provider.no_op_provider import NoOpProvider
from opentelemetry import trace
from sqlalchemy import select
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.tasks import cancel
from app.platform.data.database import ReadSession
from app.platform.data.flag_commands import add_commands as add_commands
from app.platform.data.flag_table import Flag
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.observability.redaction import redact_text
from app.platform.settings import PlatformSettings

Value = bool | int | float | str
V = TypeVar("V", bool, int, float, str)

logger = get_logger(__name__)

# Of one request or job: flags in its log line and its span, and characters of each name and text.
MAX_RECORDED = 20
MAX_RECORDED_TEXT = 100

FLAGS = select(Flag.name, Flag.value, Flag.percentage, Flag.users)


class Provider(AbstractProvider):
    """The provider for OpenFeature. ``fixed``: values that win over those of the database."""

    def __init__(self, fixed: Mapping[str, Value]) -> None:
        super().__init__()
        self._fixed = fixed
        self._flags: dict[str, tuple[Value, int, frozenset[str]]] = {}

    def get_metadata(self) -> Metadata:
        return Metadata("database")

    async def refresh(self, session: ReadSession) -> None:
        """Read all flags; the statement's errors are raised, and the last values stay."""
        rows = await session.all(FLAGS)
        self._flags = {
            name: (value, percentage, frozenset(users)) for name, value, percentage, users in rows
        }

    def _resolve(self, name: str, default: V, user: str | None) -> FlagResolutionDetails[V]:
        if name in self._fixed:
            return _typed(self._fixed[name], default, Reason.STATIC)
        if name not in self._flags:
            return FlagResolutionDetails(default, ErrorCode.FLAG_NOT_FOUND, reason=Reason.DEFAULT)
        value, percentage, users = self._flags[name]
        if user in users:
            return _typed(value, default, Reason.TARGETING_MATCH)
        if percentage in (0, 100):
            return _typed(value if percentage else default, default, Reason.STATIC)
        chosen = user is not None and position(name, user) < percentage
        return _typed(value if chosen else default, default, Reason.SPLIT)

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, default_value, _user(evaluation_context))

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, default_value, _user(evaluation_context))

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, default_value, _user(evaluation_context))

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        return self._resolve(flag_key, default_value, _user(evaluation_context))

    def resolve_object_details(
        self, flag_key: str, default_value: Any, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Any]:
        return FlagResolutionDetails(
            default_value, ErrorCode.TYPE_MISMATCH, "Flags have no objects.", Reason.ERROR
        )


def _user(evaluation: EvaluationContext | None) -> str | None:
    return evaluation.targeting_key if evaluation else None


def _typed(value: Value, default: V, reason: Reason) -> FlagResolutionDetails[V]:
    """The value, if it has the type of the default; an integer is also a float."""
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is type(default):
        return FlagResolutionDetails(value, reason=reason)
    message = f"The flag is a {type(value).__name__}, not a {type(default).__name__}."
    return FlagResolutionDetails(default, ErrorCode.TYPE_MISMATCH, message, Reason.ERROR)


def position(name: str, user: str) -> float:
    """The position of ``user`` in a flag's rollout, from 0 to 100; the same in every process."""
    digest = hashlib.sha256(f"{name}:{user}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * 100


class RecordingHook(Hook):
    """Records each evaluation, without the user, in the span and the log line of the request."""

    def finally_after(
        self,
        hook_context: HookContext,
        details: FlagEvaluationDetails[Any],
        hints: HookHints,
    ) -> None:
        value = details.value
        if isinstance(value, str):
            value = redact_text(value)[:MAX_RECORDED_TEXT]
        _record_event(details, value)
        current = context.current()
        if current.log_fields is None:
            current.log_fields = {}
        flags = current.log_fields.setdefault("flags", {})
        name = details.flag_key[:MAX_RECORDED_TEXT]
        if name in flags or len(flags) < MAX_RECORDED:
            flags[name] = value
            tracing.set_attributes({"flags.evaluated": [f"{each}={flags[each]}" for each in flags]})


def _record_event(details: FlagEvaluationDetails[Any], value: Value) -> None:
    """Add the event to the span, by OpenTelemetry's semantic conventions."""
    span = trace.get_current_span()
    if span.is_recording():
        attributes = {
            "feature_flag.key": details.flag_key,
            "feature_flag.provider.name": "database",
            "feature_flag.result.value": value,
            "feature_flag.result.reason": (details.reason or Reason.UNKNOWN).lower(),
        }
        if details.error_code:
            attributes["error.type"] = details.error_code.value.lower()
        span.add_event("feature_flag.evaluation", attributes)


class Flags:
    """The flags of this process."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.provider = Provider(settings.flags)
        self._interval = settings.flags_refresh
        self._domain = str(uuid4())  # OpenFeature has one registry for all apps of a process
        self._reported: set[tuple[str, ErrorCode]] = set()
        api.set_provider_and_wait(self.provider, self._domain)
        self.client = api.get_client(self._domain)
        self.client.add_hooks([RecordingHook()])

    def close(self) -> None:
        """Leave the registry of OpenFeature."""
        api.set_provider(NoOpProvider(), self._domain)

    def enabled(self, name: str, user: object = None, *, default: bool = False) -> bool:
        """Whether a flag is on for ``user``; ``default`` if there is no such flag."""
        return self.value(name, default, user)

    def value(self, name: str, default: V, user: object = None) -> V:
        """The value of a flag for ``user``; ``default`` if there is none of that type.

        A flag that is missing or has another type is reported once in the log.
        """
        key = None if user is None else str(user)
        evaluate = {
            bool: self.client.get_boolean_details,
            int: self.client.get_integer_details,
            float: self.client.get_float_details,
            str: self.client.get_string_details,
        }[type(default)]
        details: Any = evaluate(name, default, EvaluationContext(key))  # type: ignore[operator]
        if details.error_code and (name, details.error_code) not in self._reported:
            self._reported.add((name, details.error_code))
            logger.warning(
                "flag has its default", flag=name, reason=str(details.error_code.value).lower()
            )
        value: V = details.value
        return value

    async def keep_current(self, session: ReadSession) -> None:
        """Read the flags again and again; an outage is reported once."""
        failed = False
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1))  # noqa: S311 (not a secret)
            failed = not await self.refresh(session, report=not failed)

    async def refresh(self, session: ReadSession, *, report: bool = True) -> bool:
        """Read the flags; return whether that succeeded."""
        try:
            await self.provider.refresh(session)
        except Exception as error:  # noqa: BLE001 (whatever it is, the last values stay)
            if report:
                logger.warning("flags not read", error=type(error).__name__)
            return False
        return True


async def _flags(connection: HTTPConnection) -> Flags:
    flags: Flags = connection.app.state.flags
    return flags


FlagsDep = Annotated[Flags, Depends(_flags)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.flags = flags = Flags(settings)
        await flags.refresh(app.state.read_session)
        task = asyncio.create_task(flags.keep_current(app.state.read_session))
        try:
            yield
        finally:
            await cancel(task)
            flags.close()

    return lifespan
