"""Runs inside a generated service: the service below a path prefix of a real nginx.

nginx has the configuration of docs/production.md, once as it is and once so that it removes the
prefix.
"""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from redis import Redis

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import ROOT
from tests.system.serving import Serve, free_port

HOST = "shop.example.com"
LIMIT = 60
PASS = "proxy_pass http://127.0.0.1:8000"
CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""


def location_of_the_page() -> str:
    page = (ROOT / "docs" / "production.md").read_text()
    (block,) = re.findall(r"```nginx\n(.*?)```", page, re.DOTALL)
    assert f"{PASS};" in block
    return str(block)


@contextmanager
def nginx(folder: Path, location: str) -> Iterator[str]:
    """The URL of an nginx with one ``location``."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, port=port, location=location))
    command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(folder), "-c", str(file)]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


async def test_clients_see_the_prefix_whether_or_not_nginx_removes_it(
    serve: Serve, settings: Settings, tmp_path: Path
) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()
    metrics_port = free_port()
    server = serve(
        ROOT_PATH="/shop",
        ALLOWED_HOSTS=HOST,
        TRUSTED_PROXIES="127.0.0.1",
        METRICS_PORT=str(metrics_port),
        RATE_LIMIT=f"{LIMIT}/day",
        WEB_CONCURRENCY="1",
    )
    kept = f"proxy_pass {server.url}"
    for address, to in {"127.0.0.2": kept, "127.0.0.3": f"{kept}/"}.items():
        # Not from the proxy's own address, which is trusted to name another one.
        transport = httpx2.AsyncHTTPTransport(local_address=address, verify=False)
        with nginx(tmp_path, location_of_the_page().replace(PASS, to)) as front:
            async with httpx2.AsyncClient(
                transport=transport, base_url=f"{front}/shop", timeout=30
            ) as client:
                client.headers["Host"] = HOST
                await see_the_prefix(client, front)
                await are_limited_by_their_address(client)
    metrics = httpx2.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30, verify=False)
    assert 'route="/api/v1/items"' in metrics.text
    assert "/shop" not in metrics.text


async def see_the_prefix(client: httpx2.AsyncClient, front: str) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["servers"] == [{"url": "/shop"}]

    page = (await client.get("/docs")).text
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', page)
    assert assets
    for asset in assets:
        assert (await client.get(front + asset)).status_code == 200, asset
    assert "'/shop/openapi.json'" in page

    client.headers |= await sign_in(client, "alice@example.com")
    made = await client.post("/api/v1/items", json={"name": "Lamp"})
    where = made.headers["Location"]
    assert (made.status_code, where[:19]) == (201, "/shop/api/v1/items/")
    assert (await client.get(front + where)).json()["name"] == "Lamp"

    assert (await client.get("/health/ready")).status_code == 200
    assert (await client.get("/metrics")).status_code == 404


async def are_limited_by_their_address(client: httpx2.AsyncClient) -> None:
    """A client is no other one because it sends a header."""
    statuses = []
    for number in range(LIMIT + 1):
        forged = {"X-Forwarded-For": f"198.51.100.{number}", "Authorization": ""}
        statuses.append((await client.get("/api/v1/unknown", headers=forged)).status_code)
    assert (statuses[0], statuses[-1]) == (404, 429)
    assert (await client.get("/health/live")).status_code == 200
