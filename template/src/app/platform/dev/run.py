"""`app dev`: the whole service on one machine, until Ctrl-C.

Every process is in a session of its own, so Ctrl-C reaches only this one, which stops the others
in order. When this one is killed, their guards stop them.
"""

import asyncio
import http.client
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values, load_dotenv
from watchfiles import PythonFilter, awatch

from app.platform.dev.child import STOP_SECONDS, Child, DevError
from app.platform.dev.launch import ServerUrls
from app.platform.dev.servers import KINDS, ServerError, services
from app.platform.settings.core import DEPLOYED

PROJECT = Path(__file__).resolve().parents[4]
LOCAL = PROJECT / ".local"
DOTENV = PROJECT / ".env"
SERVER_CHECK_INTERVAL = 0.5  # seconds
COLOURS = (36, 35, 33, 34, 32)


def run(*, port: int = 8000, background: Sequence[Sequence[str]] = ()) -> int:
    """Serve the API on `port` and run the commands of `background`; return the exit code.

    Ctrl-C and SIGTERM are how it is meant to end, so they give 0; everything else gives 1.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load_dotenv(DOTENV)
    try:
        _refuse_to_start()
        with _listener(port) as listener, services(LOCAL) as urls:
            environment = _environment(port, urls)
            with _environment_file(environment, urls):
                asyncio.run(_run(listener, background, environment, urls))
    except (DevError, ServerError) as error:
        sys.stderr.write(f"app dev: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    return 0


def _refuse_to_start() -> None:
    if os.name == "nt":
        raise DevError("it needs Linux or macOS; on Windows, run it in WSL")
    if (environment := os.environ.get("ENVIRONMENT")) in DEPLOYED:
        raise DevError(
            f"ENVIRONMENT is {environment}: unset it, or start the service with `app serve`"
        )


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise DevError(
            f"port {port} can't be used ({reason}): stop what runs there, or choose another one "
            "with --port"
        ) from None


def _environment(port: int, urls: dict[str, str]) -> dict[str, str]:
    """Return the environment of the processes: the developer's own, and what it leaves open."""
    defaults = {"ENVIRONMENT": "development", "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        defaults["FORCE_COLOR"] = "1"  # they write to a pipe and can't see the terminal
    if "SECRET_KEY_FILE" not in os.environ:
        defaults["SECRET_KEY"] = _secret_key()
    return {**defaults, **os.environ, **urls, "PORT": str(port)}


@contextmanager
def _environment_file(environment: dict[str, str], urls: dict[str, str]) -> Iterator[None]:
    """Write the environment to a file while the service runs, for `uv run --env-file`.

    It has the URLs and the key of `app dev`, which a command in another terminal does not have.
    """
    path = LOCAL / "environment"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    names = {"ENVIRONMENT", "SECRET_KEY", "SECRET_KEY_FILE", *urls, *dotenv_values(DOTENV)}
    given = sorted(names & environment.keys())
    path.write_text("".join(f"{name}={_quoted(environment[name])}\n" for name in given))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _quoted(value: str) -> str:
    """A value as env files are written: literal in single quotes, escaped in double ones."""
    if "'" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def _secret_key() -> str:
    """Return this working copy's key: the same one each time, so that tokens stay valid."""
    path = LOCAL / "secret-key"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text()


async def _run(
    listener: socket.socket,
    background: Sequence[Sequence[str]],
    environment: dict[str, str],
    servers: ServerUrls,
) -> None:
    """Migrate, then serve until cancelled.

    Raise `DevError` when a process ends by itself, `ServerError` when a server does.
    """
    _cancel_on(signal.SIGINT, signal.SIGTERM)
    commands = {"migrate": _app("migrate"), "api": _api(listener)}
    commands |= {words[0]: _app(*words) for words in background}
    migrate, api, *workers = _children(commands, environment)
    api.listener = listener
    if code := await migrate.run():
        raise DevError(f"the migrations failed with exit code {code}: see above")
    try:
        async with asyncio.TaskGroup() as group:
            for child in (api, *workers):
                group.create_task(child.supervise())
            group.create_task(_restart_after_edits([api, *workers]))
            group.create_task(_announce(listener.getsockname()[1], environment))
            group.create_task(_watch_servers(servers))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _cancel_on(*signals: signal.Signals) -> None:
    task = asyncio.current_task()
    assert task
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _app(*words: str) -> list[str]:
    return [sys.executable, "-m", "app", *words]


def _api(listener: socket.socket) -> list[str]:
    return [
        *[sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"],
        *["--fd", str(listener.fileno())],
        # Requests are read as they are in production.
        *["--http", "app.platform.server.connection_limits:BoundedHttpProtocol"],
        *["--no-access-log", "--timeout-graceful-shutdown", str(STOP_SECONDS - 2)],
    ]


def _children(commands: dict[str, list[str]], environment: dict[str, str]) -> list[Child]:
    width = max(map(len, commands))
    coloured = "FORCE_COLOR" in environment and "NO_COLOR" not in environment
    children = []
    for number, (name, argv) in enumerate(commands.items()):
        label = f"{name:<{width}} | "
        if coloured:
            label = f"\x1b[{COLOURS[number % len(COLOURS)]}m{label}\x1b[0m"
        children.append(Child(name, argv, label, PROJECT, environment))
    return children


async def _restart_after_edits(children: Sequence[Child]) -> None:
    async for _ in awatch(PROJECT / "src", watch_filter=PythonFilter()):
        for child in children:
            child.restart()


async def _watch_servers(servers: ServerUrls) -> None:
    while True:
        servers.check()
        await asyncio.sleep(SERVER_CHECK_INTERVAL)


async def _announce(port: int, environment: dict[str, str]) -> None:
    """Print the addresses once the service is ready."""
    while not await asyncio.to_thread(_is_ready, port):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    servers = (f"\n  {kind.name:<10} {_display_url(environment[kind.variable])}" for kind in KINDS)
    sys.stdout.write(
        f"\n  API        http://127.0.0.1:{port}"
        f"\n  docs       http://127.0.0.1:{port}/docs"
        f"{''.join(servers)}"
        "\n\n  Ctrl-C stops everything.\n\n"
    )
    sys.stdout.flush()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _display_url(url: str) -> str:
    """Write a URL as `psql` and `redis-cli` take it, and without its password."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    return url.replace(parts.scheme, scheme, 1).replace(f":{parts.password}@", ":***@")
