"""Runs inside a generated service: the pages of its documentation, in Chromium."""

import base64
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.accounts import PASSWORD
from tests.conftest import ROOT
from tests.system.serving import free_port

BUCKET = "app.example.com"
PATIENCE = 60  # seconds, of which a quiet machine needs a tenth
APP = """
from fastapi import Response
from app import main
from app.platform.http import routing

def create_app():
    app = main.create_app()

    async def page() -> Response:
        policy = {"Content-Security-Policy": "connect-src http: ws:"}
        return Response("<!doctype html><title>A page</title>", 200, policy, "text/html")

    app.add_api_route("/test/page", page)
    routing.install_index(app)
    return app
"""
# An S3 server that verifies signatures, with the CORS rules of its bucket.
STORAGE = """
import json, os
from nanio.app import build_app
from starlette.middleware.cors import CORSMiddleware

def create_app():
    [rule] = json.loads(os.environ["CORS_RULES"])["CORSRules"]
    return CORSMiddleware(
        build_app(),
        allow_origins=rule["AllowedOrigins"],
        allow_methods=rule["AllowedMethods"],
        allow_headers=rule["AllowedHeaders"],
        max_age=rule["MaxAgeSeconds"],
    )
"""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(5000)
# What the pages leave to their readers.
HELPERS = """
window.shown = [];
window.gaps = 0;
const show = (...values) => shown.push(values.length > 1 ? values : values[0]);
const reload = () => { gaps += 1; };
const csrf = async () => (await (await fetch("/api/v1/auth/csrf")).json()).csrf_token;
const post = async (path, body) => {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": await csrf() };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.status === 204 ? null : { ...(await answer.json()), location: answer.headers.get("Location") };
};
const put = async (link, body, more = {}) => {
  const headers = { ...link.headers, ...more };
  try {
    return (await fetch(link.url, { method: link.method, headers, body })).status;
  } catch (error) {
    return error.name;
  }
};
"""


def snippet(page: str, *changes: tuple[str, str], language: str = "js", number: int = 0) -> str:
    """The code of a page of the documentation; of its names, ``changes``."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    code: str = found[number]
    for old, new in changes:
        assert old in code, f"{page} has no {old} any more"
        code = code.replace(old, new)
    return code


def wait_until(condition: Callable[[], object], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except (urllib.error.URLError, OSError):
            pass
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)


@contextmanager
def process(log: Path, *command: object, **environment: str) -> Iterator[None]:
    with log.open("a") as output:
        started = subprocess.Popen(
            list(map(str, command)), env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(PATIENCE)


class Site:
    """The service, which can be started again at its address."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "service.log"
        self._environment = environment | {"PORT": str(port), "WEB_CONCURRENCY": "2"}

    @contextmanager
    def running(self) -> Iterator[None]:
        command = (sys.executable, "-m", "gunicorn", "pages:create_app()")
        with process(self.log, *command, **self._environment):
            wait_until(lambda: urllib.request.urlopen(f"{self.url}/health/ready"), self.log)
            yield


@pytest.fixture
def site(environment: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    """A service whose uploads are in a bucket, for which its page's CORS rules are set."""
    port = free_port()
    (tmp_path / "pages.py").write_text(APP)
    (tmp_path / "storage.py").write_text(STORAGE)
    (tmp_path / "s3" / BUCKET).mkdir(parents=True)
    s3 = {
        "UPLOADS_URL": f"s3://{BUCKET}/uploads",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "example",
        "AWS_SECRET_ACCESS_KEY": "not a secret",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
    }
    changed = environment | s3 | {"PYTHONPATH": str(tmp_path), "RATE_LIMIT": "off"}
    site = Site(tmp_path, changed)
    rules = snippet("uploads.md", ("https://app.example.com", site.url), language="json")
    variables = {
        "CORS_RULES": rules,
        "NANIO_DATA_DIR": str(tmp_path / "s3"),
        "NANIO_ACCESS_KEY": s3["AWS_ACCESS_KEY_ID"],
        "NANIO_SECRET_KEY": s3["AWS_SECRET_ACCESS_KEY"],
        "PYTHONPATH": str(tmp_path),
    }
    storage = (sys.executable, "-m", "uvicorn", "storage:create_app", "--factory", "--port", port)
    worker = (sys.executable, "-m", "app", "worker")
    with (
        process(tmp_path / "storage.log", *storage, **variables),
        process(tmp_path / "worker.log", *worker, **changed),
    ):
        yield site


@pytest.fixture
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def run(page: Page, code: str, argument: Any = None) -> Any:
    """Run code in a page, as part of an async function; what it returns."""
    return page.evaluate(f"async (given) => {{ {HELPERS} {code} }}", argument)


def shown(page: Page, condition: str) -> list[Any]:
    """What the page has shown, once that meets a condition."""
    page.wait_for_function(f"(() => {{ const all = window.shown; return {condition}; }})()")
    found: list[Any] = page.evaluate("window.shown")
    return found


def entered(context: BrowserContext, site: Site) -> Page:
    page = context.new_page()
    page.goto(f"{site.url}/test/page")
    return page


def sign_in(page: Page, email: str) -> None:
    account = {"email": email, "password": PASSWORD}
    run(
        page,
        """
        const json = { "Content-Type": "application/json" };
        await fetch("/api/v1/auth/register",
                    { method: "POST", headers: json, body: JSON.stringify(given) });
        const form = new URLSearchParams({ username: given.email, password: given.password });
        const answer = await fetch("/api/v1/auth/login", { method: "POST", body: form });
        if (!answer.ok) throw new Error(await answer.text());
        """,
        account,
    )


def say(page: Page, item: str, text: str) -> None:
    run(page, f'await post("/api/v1/items/{item}/notes", {{ text: given }});', text)


def test_the_pages_of_the_documentation_work_in_a_browser(site: Site, browser: Any) -> None:
    with site.running():
        context, other = browser.new_context(), browser.new_context().new_page()
        context.set_default_timeout(PATIENCE * 1000)
        page = entered(context, site)
        sign_in(page, "alice@example.com")
        item = run(page, 'return (await post("/api/v1/items", { name: "Anchor" })).id;')
        follows_a_job(page)
        uploads_a_file(page, other, site, item)
        assert opens_a_room(context, site, item, origin=site.url) == 101
        assert opens_a_room(context, site, item, origin="https://evil.example") == 403
        watching, talking = entered(context, site), entered(context, site)
        events = snippet("event-streams.md", ("/orders/1", f"/items/{item}"), ("OrderPaid", "Note"))
        run(watching, events)
        names = ("/orders/1", f"/items/{item}"), ("const send", "window.send")
        run(talking, snippet("websockets.md", *names))
        talking.wait_for_function("shown.some((each) => each.type === 'members')")
        say(page, item, "before")
        talking.evaluate("send({ type: 'say', text: 'before' })")
        shown(watching, "all.length === 1")
        shown(talking, "all.some((each) => each.text === 'before')")
    with site.running():
        # Sent before the pages are there again, or after: they get it all the same.
        say(page, item, "while away")
        late = entered(context, site)
        run(late, snippet("websockets.md", *names))
        late.wait_for_function("shown.some((each) => each.type === 'members')")
        late.evaluate("send({ type: 'say', text: 'while away' })")
        assert shown(watching, "all.length >= 2") == [{"text": "before"}, {"text": "while away"}]
        shown(talking, "all.some((each) => each.text === 'while away')")
        talking.evaluate("send({ type: 'say', text: 'after' })")
        said = shown(talking, "all.some((each) => each.text === 'after')")
        texts = [each["text"] for each in said if each["type"] == "said"]
        assert texts == ["before", "while away", "after"]
        say(page, item, "after")
        assert [each["text"] for each in shown(watching, "all.length >= 3")] == [
            "before",
            "while away",
            "after",
        ]
        assert (watching.evaluate("gaps"), talking.evaluate("gaps")) == (0, 0)


def follows_a_job(page: Page) -> None:
    code = snippet("event-streams.md", number=1)
    started = 'const job = (await post("/api/v1/items/export")).location;'
    run(page, started + code)
    statuses = [status for status, _ in shown(page, "all.some(([each]) => each === 'succeeded')")]
    assert statuses[-1] == "succeeded"


def opens_a_room(context: BrowserContext, site: Site, item: str, origin: str) -> int:
    """The status for a WebSocket with the browser's cookies, which a page of ``origin`` opens."""
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in context.cookies())
    url = f"ws{site.url.removeprefix('http')}/api/v1/items/{item}/room"
    try:
        with connect(url, origin=Origin(origin), additional_headers={"Cookie": cookies}):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def uploads_a_file(page: Page, other: Page, site: Site, item: str) -> None:
    """A file goes to the storage, of another origin; what the link is not for does not."""
    files = f"/api/v1/items/{item}/attachments"
    code = snippet("uploads.md", number=0)
    picture = f'new File([Uint8Array.from(atob("{base64.b64encode(PNG).decode()}"),'
    picture += ' (c) => c.charCodeAt(0))], "a.png", { type: "image/png" })'
    made = run(page, f"{code} return upload(given, {picture}, post);", files)
    assert (made["state"], made["size"], made["media_type"]) == ("stored", len(PNG), "image/png")
    read = f"{code} const answer = await fetch(`${{given}}/{made['id']}`);"
    assert run(page, f"{read} return (await answer.arrayBuffer()).byteLength;", files) == len(PNG)
    link = f"""
        const file = {picture};
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
        const sha256 = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        const what = {{ name: "b.png", media_type: "image/png", size: file.size, sha256 }};
        return post(`${{given}}/links`, what);
    """
    given = run(page, link, files)
    contents = f"const file = {picture};"
    refused = {
        "another type": 'put(given, file, { "Content-Type": "text/html" })',
        "a larger file": "put(given, new Blob([file, file]))",
        "a smaller file": "put(given, file.slice(1))",
        "a header that CORS does not name": 'put(given, file, { "x-amz-acl": "public-read" })',
    }
    for case, call in refused.items():
        assert run(page, f"{contents} return {call};", given) in (403, "TypeError"), case
    # A page of another origin, to which the bucket's CORS rules give nothing.
    other.goto(f"{site.url}/test/page".replace("127.0.0.1", "localhost"))
    assert run(other, f"{contents} return put(given, file);", given) == "TypeError"
    stored = f'try {{ await post("{files}/{given["id"]}/completion"); }} catch (e) {{ return e.message; }}'
    assert "409" in run(page, stored)
    assert run(page, f"{contents} return put(given, file);", given) == 200
    assert run(page, f'return (await post("{files}/{given["id"]}/completion")).state;') == "stored"
