"""Requests of a signed-in user to each service in turn; ``compare.py`` runs this in ours.

Postgres, Valkey, the load and ``best.py`` are those of the service's own benchmark. All servers run
at once, with one process each, as their images start them, and get the requests in turn, so that a
busy machine slows all of them. Items are created last: some peers count all rows for each page.
"""

import argparse
import asyncio
import importlib
import json
import os
import secrets
import statistics
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

KINDS = ("one item", "page of 20", "new item")
PASSWORD = "Correct-horse-battery-1"
USER = "ada"
# Its migrations need uuid-ossp, which the Postgres of `app dev` does not have.
FULL_STACK_TABLES = """
from app.core.db import engine
from app.models import SQLModel
SQLModel.metadata.create_all(engine)
"""
compare: Any = importlib.import_module("compare")  # the service's
asyncpg: Any = importlib.import_module("asyncpg")


@dataclass(frozen=True)
class Paths:
    """What is asked of a service: ``ITEM`` in ``one`` is the identifier of an item."""

    one: str
    page: str
    new: str = ""
    body: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Peer:
    """How a peer is prepared, started and signed in to."""

    folder: str  # below build/peers
    environment: dict[str, str]
    prepare: list[list[str]]
    serve: list[str]
    ready: str
    register: tuple[str, Mapping[str, str]]
    log_in: str
    paths: Paths
    users: int = 1


def peers(database: SplitResult, redis: SplitResult, port: int) -> dict[str, Peer]:
    """The peers by name, whose databases have their names, too."""
    host, user = str(database.hostname), str(database.username)
    of_postgres = str(database.port)
    password = database.password or "any"  # full-stack would read an empty one from its own .env
    key = secrets.token_hex(32)
    postgres = {
        "POSTGRES_SERVER": host,
        "POSTGRES_PORT": of_postgres,
        "POSTGRES_USER": user,
        "POSTGRES_PASSWORD": password,
    }
    uvicorn = ["--host", "127.0.0.1", "--port", str(port)]
    email = f"{USER}@example.com"
    return {
        "full-stack": Peer(
            "full-stack/backend",
            postgres
            | {
                "ENVIRONMENT": "production",
                "PROJECT_NAME": "peer",
                "SECRET_KEY": key,
                "FIRST_SUPERUSER": "admin@example.com",
                "FIRST_SUPERUSER_PASSWORD": PASSWORD,
                "POSTGRES_DB": "full-stack",
                "DATABASE_URL": database._replace(scheme="postgresql", path="full-stack").geturl(),
            },
            [["../.venv/bin/python", "-c", FULL_STACK_TABLES]],
            ["../.venv/bin/fastapi", "run", *uvicorn, "app/main.py"],
            "/api/v1/utils/health-check/",
            ("/api/v1/users/signup", {"email": email, "password": PASSWORD, "full_name": "Ada"}),
            "/api/v1/login/access-token",
            Paths(
                "/api/v1/items/ITEM",
                "/api/v1/items/?limit=20",
                "/api/v1/items/",
                {"title": "Anchor"},
            ),
        ),
        "benavlabs": Peer(
            "benavlabs/src",
            postgres
            | {
                "SECRET_KEY": key,
                "POSTGRES_DB": "benavlabs",
                **{
                    f"REDIS_{of}_{name}": str(value)
                    for of in ("CACHE", "QUEUE", "RATE_LIMIT")
                    for name, value in (("HOST", redis.hostname), ("PORT", redis.port))
                },
            },
            [],  # it creates its tables when it starts
            ["../.venv/bin/uvicorn", *uvicorn, "app.main:app"],
            "/docs",
            (
                "/api/v1/user",
                {"name": "Ada", "username": USER, "email": email, "password": PASSWORD},
            ),
            "/api/v1/login",
            # Its routes of posts answer 500 with the packages of its lock file, and list nothing.
            Paths("/api/v1/user/me/", "/api/v1/users?items_per_page=20"),
            users=30,
        ),
        "s3rius": Peer(
            "s3rius/peer",
            {
                "PEER_RELOAD": "False",
                "PEER_PORT": str(port),
                "PEER_DB_HOST": host,
                "PEER_DB_PORT": of_postgres,
                "PEER_DB_USER": user,
                "PEER_DB_PASS": password,
                "PEER_DB_BASE": "s3rius",
                "PEER_USERS_SECRET": key,
            },
            [[".venv/bin/alembic", "upgrade", "head"]],
            [".venv/bin/python", "-m", "peer"],
            "/api/health",
            ("/api/auth/register", {"email": email, "password": PASSWORD}),
            "/api/auth/jwt/login",
            Paths(
                "/api/users/me",
                "/api/dummy/?limit=20",
                "/api/dummy/",
                {"name": "Anchor"},
                "PUT",
            ),
        ),
    }


@contextmanager
def serving(peer: Peer, build: Path, port: int) -> Iterator[Any]:
    folder = build / peer.folder
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | peer.environment
    for command in peer.prepare:
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    in_folder = ["sh", "-c", 'cd "$0" && exec "$@"', str(folder)]
    server = compare.Server([*in_folder, *peer.serve], environment, port)
    try:
        server.wait(peer.ready)
        yield server
    finally:
        server.stop()


def post(url: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    return json.load(urllib.request.urlopen(request, timeout=30))


def sign_in(peer: Peer, url: str) -> dict[str, str]:
    """The headers of a new user."""
    path, account = peer.register
    text = json.dumps(account)
    for n in range(peer.users):
        other = text.replace(f'"{USER}', f'"{USER}{n or ""}')
        post(url + path, other.encode(), "application/json")
    name = account.get("username", account["email"])
    form = urllib.parse.urlencode({"username": name, "password": PASSWORD}).encode()
    token = post(url + peer.log_in, form, "application/x-www-form-urlencoded")["access_token"]
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def loads(server: Any, headers: Mapping[str, str], paths: Paths) -> dict[str, Any]:
    """The requests of each kind, to a service with 30 items."""
    one, page, new = KINDS
    found, item = {}, ""
    if paths.new:
        create = compare.Load(server, paths.new, headers, json.dumps(paths.body), paths.method)
        created = [compare._send(create) for _ in range(30)]
        item = (created[-1] or {}).get("id", "")
        found[new] = create
    found[one] = compare.Load(server, paths.one.replace("ITEM", str(item)), headers)
    found[page] = compare.Load(server, paths.page, headers)
    return found


async def create_databases(url: str, names: list[str]) -> None:
    connection = await asyncpg.connect(url)
    for name in names:
        await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()


def table(results: Mapping[str, Mapping[str, list[tuple[float, float]]]]) -> str:
    """Throughput and CPU time to ``best.py``, medians of the rounds' ratios, with quartiles."""
    lines = [f"| to `best.py` | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for name in results[KINDS[0]]:
        cells = []
        for of_kind in results.values():
            if name not in of_kind:
                cells.append("")
                continue
            pairs = list(zip(of_kind[name], of_kind["best.py"], strict=True))
            (low, rate, high), (lean, cpu, costly) = (
                statistics.quantiles(ratios, n=4)
                for ratios in ([a[0] / b[0] for a, b in pairs], [b[1] / a[1] for a, b in pairs])
            )
            middle = [statistics.median(each) for each in zip(*of_kind[name], strict=True)]
            cells.append(
                f"{rate:.2f} ({low:.2f} to {high:.2f}) · {cpu:.2f} ({lean:.2f} to {costly:.2f})"
                f" · {middle[0]:,.0f}/s, {middle[1]:,.0f} µs"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("peers", nargs="*")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int)
    options = parser.parse_args()
    with ExitStack() as stack:
        variables = stack.enter_context(compare.environment())
        url = variables["DATABASE_URL"].replace("+asyncpg", "")
        asyncio.run(create_databases(url, options.peers))
        services = {
            "best.py": stack.enter_context(
                compare.serving(variables, "best:create_app", "/openapi.json")
            ),
            "this service": stack.enter_context(compare.serving(variables, "service")),
        }
        headers = asyncio.run(
            compare._sign_in(
                compare.make_url(variables["DATABASE_URL"]),
                services["this service"].url,
                variables["SECRET_KEY"],
            )
        )
        items = importlib.import_module("best").ITEMS
        paths = Paths(f"{items}/ITEM", f"{items}?limit=20", items, {"name": "Anchor"})
        asked = {
            name: loads(server, headers["best" if name == "best.py" else "ours"], paths)
            for name, server in services.items()
        }
        for name in options.peers:
            port = compare.free_port()
            peer = peers(urlsplit(url), urlsplit(variables["REDIS_URL"]), port)[name]
            server = stack.enter_context(serving(peer, options.build, port))
            asked[name] = loads(server, sign_in(peer, server.url), peer.paths)
        results = {}
        for kind in KINDS:
            of_kind = {name: of[kind] for name, of in asked.items() if kind in of}
            results[kind] = compare.measure(of_kind, options.rounds, options.seconds)
        print(f"{options.rounds} rounds of {options.seconds:g} s, load {os.getloadavg()[0]:.1f}.")
        print("Throughput (quartiles) · CPU time of best.py / the service's (quartiles).\n")
        print(table(results))


if __name__ == "__main__":
    main()
