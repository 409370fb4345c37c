"""Lambda's Runtime API, to test the real runtime client without AWS."""

import json
import queue
import subprocess
import sys
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import ROOT

Event = dict[str, Any]
PATIENCE = 120.0  # seconds that anything may take on a slow machine
CLOSED = None  # instead of an event: there are no more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "RuntimeApi"

    def log_message(self, *_: Any) -> None:
        """No log."""

    def do_GET(self) -> None:
        self.server.waiting.set()
        number, event, seconds = self.server.events.get()
        self.server.waiting.clear()
        if event is CLOSED:
            self.close_connection = True
            return
        body = json.dumps(event).encode()
        self.send_response(200)
        for name, value in {
            "Lambda-Runtime-Aws-Request-Id": number,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:service",
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Lambda-Runtime-Client-Context": "{}",
            "Lambda-Runtime-Cognito-Identity": "{}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.results.put((self.path.rpartition("/2018-06-01/runtime/")[2], self._body()))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> Any:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return json.loads(whole)


class RuntimeApi(ThreadingHTTPServer):
    """Sends events to one process of the function, and receives its responses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: queue.Queue[Any] = queue.Queue()
        self.results: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.waiting = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A function that was killed while it waited is not an error."""


class Function:
    """One process of the function: with the tests' routes, or as the stack starts it."""

    def __init__(self, environment: dict[str, str], module: str = "tests.deploy.routes") -> None:
        self.api = RuntimeApi()
        self._number = 0
        address = f"127.0.0.1:{self.api.server_port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**environment, "AWS_LAMBDA_RUNTIME_API": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.log += line

    def started(self) -> None:
        """Wait until it polls for an event."""
        until = time.monotonic() + PATIENCE
        while not self.api.waiting.wait(0.02):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log

    def send(self, event: Event, seconds: float = 60) -> None:
        """Invoke it; ``seconds``: the time-out of the function."""
        self._number += 1
        self.api.events.put((str(self._number), event, seconds))

    def result(self) -> tuple[str, Any]:
        """Return what it posted next: ``invocation/1/response``, and the body."""
        try:
            return self.api.results.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no response: {self.log}") from None

    def invoke(self, event: Event, seconds: float = 60) -> Event:
        """Invoke it, and return its response."""
        self.send(event, seconds)
        path, response = self.result()
        assert path == f"invocation/{self._number}/response", (path, response, self.log)
        assert isinstance(response, dict)
        return response

    def logged(self) -> str:
        """Return its whole log, once it has ended."""
        self._reader.join(PATIENCE)
        return self.log

    def end(self) -> None:
        """Kill it if it runs, and close everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.logged()
        assert self.process.stdout
        self.process.stdout.close()
        self.api.events.put(("", CLOSED, 0))
        self.api.shutdown()
        self.api.server_close()


def content(response: Event) -> bytes:
    """Return the body of a response."""
    body: str = response["body"]
    return b64decode(body) if response["isBase64Encoded"] else body.encode()
