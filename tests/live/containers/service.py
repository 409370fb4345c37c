"""The compose stack of a rendered service, and what the container tests ask of it."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from .engine import Engine

T = TypeVar("T")


def free_port() -> int:
    """Return a loopback port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], T | None], seconds: float) -> T:
    """Return the condition's first true result; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s")


@dataclass(frozen=True)
class Answer:
    """A response: status, headers with lower-case names, and the body's JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Stack:
    """A running compose stack."""

    engine: Engine
    project: Path
    image: str
    port: int = field(default_factory=free_port)

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run ``docker compose`` on the stack and return what it printed."""
        variables = {
            "IMAGE": self.image,
            "API_PORT": str(self.port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            "OTEL_TRACES_SAMPLER_ARG": "1",
            **variables,
        }
        return self.engine.docker("compose", *arguments, cwd=self.project, env=variables)

    def containers(self, *, stopped: bool = False) -> dict[str, dict[str, Any]]:
        """Return what ``docker inspect`` says of each container, by the service's name."""
        ids = self.compose("ps", "--quiet", *(["--all"] if stopped else [])).split()
        facts = json.loads(self.engine.docker("inspect", *ids))
        return {fact["Config"]["Labels"]["com.docker.compose.service"]: fact for fact in facts}

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a running container and return what it printed."""
        return self.compose("exec", "-T", service, *command)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str = "",
        form: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request, with JSON or a form, to the API on the published port."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = urlencode(form).encode() if form else None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return _answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return _answer(error.code, error.headers, error.read())


def _answer(status: int, headers: Any, content: bytes) -> Answer:
    is_json = "json" in headers.get("content-type", "")
    body = json.loads(content) if is_json and content else content.decode()
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Start the stack, wait until all of it is healthy, and remove it with its volumes."""
    try:
        try:
            stack.compose("up", "--no-build", "--wait", "--wait-timeout", "120")
        except RuntimeError as error:
            logs = stack.compose("logs", "--no-color", "--tail", "40")
            raise RuntimeError(f"{error}\n{logs}") from None
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")
