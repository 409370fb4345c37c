"""Which jobs there are, and what their arguments and results look like."""

import importlib.util
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NotRequired, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

import app

Function = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Function)

RETRIES = 5  # by default: with JOBS_BACKOFF=5, they are spread over two and a half minutes at most
RESERVED = {"unique", "delay"}  # what `enqueue` itself takes


class UnknownJobVersion(LookupError):
    """This release has no such job, or not with these arguments; a newer or older one has."""


@dataclass(frozen=True)
class JobDefinition:
    """A registered job. ``timeout`` in seconds; ``cron`` in UTC."""

    name: str
    function: Function
    retries: int
    timeout: float
    cron: str | None
    arguments: TypeAdapter[dict[str, Any]]
    result: TypeAdapter[Any]

    def to_json(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check ``arguments`` and turn them into JSON; raise ``TypeError`` if the job can't run."""
        try:
            valid = self.arguments.validate_python(arguments)
        except ValidationError as error:
            problems = (f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
            raise TypeError(f"{self.name} can't be called so: {'; '.join(problems)}") from None
        json: dict[str, Any] = self.arguments.dump_python(valid, mode="json")
        return json

    def from_json(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Arguments to call the job with; raises ``UnknownJobVersion`` if it takes others."""
        try:
            return self.arguments.validate_python(stored)
        except ValidationError as error:
            names = ", ".join(f"`{'.'.join(map(str, e['loc']))}`" for e in error.errors())
            raise UnknownJobVersion(f"This release's {self.name} can't take {names}.") from None


_by_name: dict[str, JobDefinition] = {}
_by_function: dict[Function, JobDefinition] = {}


def job(
    *, name: str | None = None, retries: int = RETRIES, timeout: float = 60, cron: str | None = None
) -> Callable[[F], F]:
    """Register ``async def function(context, ...)`` as a job; the function stays what it is.

    ``name`` is what the queue calls it, by default ``<feature>.<function>``: a job that waits in
    the queue is found by it, so a renamed function keeps its old name here. After a failure it is
    tried ``retries`` times more, later each time. An attempt that takes longer than ``timeout``
    seconds has failed. ``cron`` (five fields, or six with seconds first; UTC) starts it by the
    clock.
    """

    def register(function: F) -> F:
        definition = _describe(function, name or _default_name(function), retries, timeout, cron)
        known = _by_name.setdefault(definition.name, definition).function
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"Two jobs are called {definition.name}: give one another `name`.")
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
        raise TypeError(f"{name} is no `async def`; blocking work goes into asyncio.to_thread.")
    signature = inspect.signature(function, eval_str=True)
    _context, *parameters = signature.parameters.values()
    if reserved := RESERVED.intersection(p.name for p in parameters):
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
    """Make the type of a call's arguments; those with a default may be left out."""
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: a job names each of its parameters, without * and **.")
        required = parameter.default is inspect.Parameter.empty
        annotation = _or_any(parameter.annotation)
        fields[parameter.name] = annotation if required else NotRequired[annotation]
    arguments = TypedDict(name, fields)  # type: ignore[misc]  # made at run time
    return with_config(ConfigDict(extra="forbid"))(arguments)


def _or_any(annotation: Any) -> Any:
    return Any if annotation is inspect.Parameter.empty else annotation


def definition_of(function: Function) -> JobDefinition:
    """Return how ``function`` was registered; raise ``TypeError`` if it was not."""
    try:
        return _by_function[function]
    except KeyError:
        raise TypeError(f"{function.__qualname__} is no job: put @job() above it.") from None


def get_definition(name: str) -> JobDefinition:
    """Return the job called ``name``; raise ``UnknownJobVersion`` if this release has none."""
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownJobVersion(f"This release has no job called {name}.") from None


def definitions() -> list[JobDefinition]:
    """Return every job that this release has."""
    return list(_by_name.values())


def scheduled() -> list[JobDefinition]:
    """Return the jobs that the clock starts."""
    return [definition for definition in definitions() if definition.cron]


def discover() -> None:
    """Import the ``jobs`` module of every feature, so that its jobs are registered."""
    for feature in pkgutil.iter_modules(app.__path__, f"{app.__name__}."):
        if feature.ispkg and importlib.util.find_spec(f"{feature.name}.jobs"):
            importlib.import_module(f"{feature.name}.jobs")
