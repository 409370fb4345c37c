"""An OTLP receiver, and a service that exports to it."""

import gzip
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import text

from app.platform.base import context
from app.platform.http import routing
from app.platform.observability import tracing
from app.settings import Settings
from tests.conftest import client_for, running_platform

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SERVER, CLIENT, CONSUMER = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_CONSUMER


class Collector:
    """An OTLP receiver and web server that records the requests it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.instances: set[str] = set()  # of the processes that exported
        self.headers: list[dict[str, str]] = []  # of GET requests
        self.exports: list[dict[str, str]] = []  # headers of exports
        self.status = 200  # of the response to exports
        self.hangs = threading.Event()
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.receive(self)

            def do_GET(self) -> None:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Do not log requests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def receive(self, handler: BaseHTTPRequestHandler) -> None:
        self.exports.append({k.lower(): v for k, v in handler.headers.items()})
        body = handler.rfile.read(int(handler.headers["content-length"]))
        if handler.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.hangs.is_set():
            self.released.wait(60)
        if self.status != 200:
            handler.send_response(self.status)
            handler.end_headers()
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.instances.add(self.resource["service.instance.id"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def one(self, name: str) -> Span:
        [span] = [span for span in self.spans if span.name == name]
        return span


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@asynccontextmanager
async def traced(
    settings: Settings, endpoint: str | None, **settings_changes: Any
) -> AsyncIterator[FastAPI]:
    changes = {
        "otel_exporter_otlp_endpoint": endpoint,
        "otel_traces_sampler_arg": 1.0,
    } | settings_changes
    async with running_platform(settings.model_copy(update=changes)) as app:
        async with app.state.db.engine.connect():
            pass  # an engine's first connection runs statements of its own

        async def call_all(request: Request, thing: str) -> dict[str, Any]:
            state = request.app.state
            async with state.db.engine.connect() as connection:
                await connection.execute(text("SELECT :thing"), {"thing": thing})
            await state.redis.set("key", "s3cret")
            if endpoint:
                await state.http.get(f"{endpoint}/peer?token=s3cret")
            return {"trace_id": context.current().trace_id, "carrier": tracing.inject()}

        async def fail() -> None:
            raise RuntimeError("the password is s3cret")

        app.add_api_route("/things/{thing}", call_all)
        app.add_api_route("/fail", fail, response_model=None)
        routing.install_index(app)
        yield app


async def get(app: FastAPI, path: str, **headers: str) -> httpx2.Response:
    async with client_for(app) as client:
        return await client.get(path, headers=headers)
