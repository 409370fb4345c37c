"""Registered jobs, with their parameters, result types and retry policies."""

import importlib.util
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NotRequired, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic requires this one before Python 3.12

import app

Function = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Function)

DEFAULT_RETRIES = 5  # with JOBS_BACKOFF=5, within at most two and a half minutes
RESERVED_PARAMETERS = {"unique", "delay"}  # parameters of `enqueue`


class UnknownJobVersion(LookupError):
    """This release does not have the job, or not with these arguments; another release may."""


@dataclass(frozen=True)
class JobDefinition:
    """A registered job. ``timeout``: seconds per attempt; ``cron``: in UTC."""

    name: str
    function: Function
    retries: int
    timeout: float
    cron: str | None
    arguments: TypeAdapter[dict[str, Any]]
    result: TypeAdapter[Any]

    def dump_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """``arguments`` as JSON; raises ``TypeError`` if they do not match the job's parameters."""
        try:
            valid = self.arguments.validate_python(arguments)
        except ValidationError as error:
            problems = (f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
            raise TypeError(f"Invalid arguments for {self.name}: {'; '.join(problems)}") from None
        json: dict[str, Any] = self.arguments.dump_python(valid, mode="json")
        return json

    def load_arguments(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Arguments from stored JSON; raises ``UnknownJobVersion`` if the job takes others."""
        try:
            return self.arguments.validate_python(stored)
        except ValidationError as error:
            names = ", ".join(f"`{'.'.join(map(str, e['loc']))}`" for e in error.errors())
            raise UnknownJobVersion(f"{self.name} of this release does not take {names}.") from None


_by_name: dict[str, JobDefinition] = {}
_by_function: dict[Function, JobDefinition] = {}


def job(
    *,
    name: str | None = None,
    retries: int = DEFAULT_RETRIES,
    timeout: float = 60,
    cron: str | None = None,
) -> Callable[[F], F]:
    """Decorator that registers an ``async def function(context, ...)`` as a job.

    ``name``: by default ``<feature>.<function>``. Queued jobs refer to it, so keep the old name
    here when you rename the function. ``retries``: further attempts after a failure, with
    exponential backoff. ``timeout``: seconds per attempt. ``cron``: a schedule in UTC, with five
    fields, or six with seconds first.
    """

    def register(function: F) -> F:
        definition = _describe(function, name or _default_name(function), retries, timeout, cron)
        known = _by_name.setdefault(definition.name, definition).function
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"Two jobs are named {definition.name}; pass another `name` to one.")
        _by_name[definition.name] = _by_function[function] = definition
        return function

    return register


def _default_name(function: Function) -> str:
    """``app.orders.jobs`` and ``send_invoice`` make ``orders.send_invoice``."""
    module = function.__module__.removeprefix(f"{app.__name__}.").removesuffix(".jobs")
    return f"{module}.{function.__name__}"


def _describe(
    function: Function, name: str, retries: int, timeout: float, cron: str | None
) -> JobDefinition:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is not an `async def`; use asyncio.to_thread for blocking work.")
    signature = inspect.signature(function, eval_str=True)
    _context, *parameters = signature.parameters.values()
    if reserved := RESERVED_PARAMETERS.intersection(p.name for p in parameters):
        raise TypeError(f"{name}: {', '.join(reserved)} is a parameter of `enqueue`; rename it.")
    return JobDefinition(
        name=name,
        function=function,
        retries=retries,
        timeout=timeout,
        cron=cron,
        arguments=TypeAdapter(_arguments(name, parameters)),
        result=TypeAdapter(_or_any(signature.return_annotation)),
    )


def _arguments(name: str, parameters: Iterable[inspect.Parameter]) -> Any:
    """A ``TypedDict`` of the parameters; those with a default are not required."""
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: jobs must name all parameters, without * and **.")
        required = parameter.default is inspect.Parameter.empty
        annotation = _or_any(parameter.annotation)
        fields[parameter.name] = annotation if required else NotRequired[annotation]
    arguments = TypedDict(name, fields)  # type: ignore[misc]  # dynamic
    return with_config(ConfigDict(extra="forbid"))(arguments)


def _or_any(annotation: Any) -> Any:
    return Any if annotation is inspect.Parameter.empty else annotation


def definition_of(function: Function) -> JobDefinition:
    """Definition of a job function; raises ``TypeError`` if it is not registered."""
    try:
        return _by_function[function]
    except KeyError:
        raise TypeError(f"{function.__qualname__} is not a job; decorate it with @job().") from None


def get_definition(name: str) -> JobDefinition:
    """Definition of the job named ``name``; raises ``UnknownJobVersion`` if there is none."""
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownJobVersion(f"This release has no job named {name}.") from None


def definitions() -> list[JobDefinition]:
    """All registered jobs."""
    return list(_by_name.values())


def scheduled() -> list[JobDefinition]:
    """Registered jobs with a cron schedule."""
    return [definition for definition in definitions() if definition.cron]


def discover() -> None:
    """Import the ``jobs`` module of every feature, which registers its jobs."""
    for feature in pkgutil.iter_modules(app.__path__, f"{app.__name__}."):
        if feature.ispkg and importlib.util.find_spec(f"{feature.name}.jobs"):
            importlib.import_module(f"{feature.name}.jobs")
