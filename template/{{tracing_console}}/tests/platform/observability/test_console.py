"""The console backend: traces are printed in development, and nowhere else."""

import re
import secrets

import pytest
from fastapi import FastAPI, Request
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from pydantic import SecretStr
from sqlalchemy import text

from app.platform.base import context
from app.platform.http import routing
from app.platform.observability import tracing
from app.platform.observability.tracing import backend
from app.settings import Settings
from tests.conftest import client_for, running_app

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The printed traces."""
    traces: list[str] = []
    printer = backend.Printer
    monkeypatch.setattr(backend, "Printer", lambda: printer(traces.append))
    return traces


@pytest.fixture
def development(settings: Settings) -> Settings:
    return settings.model_copy(update={"environment": "development"})


def prepare(app: FastAPI) -> None:
    async def call_both(request: Request) -> str:
        async with request.app.state.db.engine.connect() as connection:
            await connection.execute(text("SELECT :thing"), {"thing": "s3cret"})
        await request.app.state.redis.set("key", "s3cret")
        return context.current().trace_id

    async def fail() -> None:
        raise RuntimeError("the password is s3cret")

    app.add_api_route("/things/{thing}", call_both)
    app.add_api_route("/fail", fail, response_model=None)
    routing.install_index(app)


async def test_a_request_is_printed_with_its_statements_and_commands(
    development: Settings, printed: list[str]
) -> None:
    async with running_app(development) as app, client_for(app) as client:
        prepare(app)
        await client.get("/things/7")  # the engine's first connection runs statements of its own
        trace_id = (await client.get("/things/7?token=s3cret", headers=PARENT)).json()
    head, request, statement, command = printed[-1].splitlines()
    assert head == f"trace {TRACE}" == f"trace {trace_id}"
    assert re.fullmatch(r"   +[0-9.]+ ms  GET /things/\{thing\}  200", request)
    assert re.fullmatch(r"     +[0-9.]+ ms  SELECT  SELECT \$1", statement)
    assert re.fullmatch(r"     +[0-9.]+ ms  SET.*", command)
    assert "s3cret" not in "".join(printed)


async def test_a_failed_request_is_marked(development: Settings, printed: list[str]) -> None:
    async with running_app(development) as app, client_for(app) as client:
        prepare(app)
        await client.get("/fail")
    assert printed[-1].endswith("GET /fail  500 RuntimeError FAILED\n")


async def test_a_job_is_printed_in_the_trace_of_its_request(
    development: Settings, printed: list[str]
) -> None:
    async with running_app(development):
        with tracing.job_span("orders.export", PARENT):
            pass
    [trace] = printed
    assert trace.startswith(f"trace {TRACE}\n")
    assert trace.endswith("orders.export\n")


@pytest.mark.parametrize("environment", ["production", "test"])
async def test_nothing_is_printed_outside_of_development(
    settings: Settings, printed: list[str], environment: str
) -> None:
    changed = settings.model_copy(
        update={
            "environment": environment,
            "otel_traces_sampler": "always_on",
            "secret_key": SecretStr(secrets.token_hex(32)),
        }
    )
    async with running_app(changed) as app, client_for(app) as client:
        prepare(app)
        trace_id = (await client.get("/things/7", headers=PARENT)).json()
    assert trace_id == TRACE
    assert printed == []


def test_open_traces_are_bounded(printed: list[str]) -> None:
    printer = backend.Printer()
    tracer = TracerProvider().get_tracer("test")
    for _ in range(backend.MAX_OPEN_TRACES + 50):
        with tracer.start_as_current_span("never ends"):
            child = tracer.start_span("child")
            child.end()
        assert isinstance(child, ReadableSpan)
        printer.export([child])
    assert len(printer.open_traces) == backend.MAX_OPEN_TRACES
    assert printed == []
