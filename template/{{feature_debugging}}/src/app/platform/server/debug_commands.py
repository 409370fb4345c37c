"""``app debug``: the commands that look inside the running processes of this container or host."""

import json
from typing import Any, TextIO

import click

from app.platform.server import debug_socket
from app.platform.server.debug_socket import DebugError

ANSWER_TIMEOUT = 15.0  # seconds

pid_option = click.option("--pid", type=int, help="One process; otherwise all.")


def _ask(pid: int | None, command: str, **arguments: Any) -> dict[int, Any]:
    """The answers by process id."""
    pids = debug_socket.processes() if pid is None else [pid]
    if not pids:
        raise click.ClickException(
            "no process of this service runs here as this user with DEBUG_SOCKET on"
        )
    timeout = ANSWER_TIMEOUT + arguments.get("seconds", 0.0)
    try:
        return {each: debug_socket.ask(each, command, timeout, **arguments) for each in pids}
    except DebugError as error:
        raise click.ClickException(str(error)) from None


def _print(answers: dict[int, Any]) -> None:
    for pid, answer in answers.items():
        click.echo(f"process {pid}")
        click.echo(_text(answer))


def _text(answer: Any, indent: str = "  ") -> str:
    """An answer for people: stacks as they are, the rest as JSON."""
    lines = []
    for name, value in answer.items():
        if name in ("tasks", "threads"):
            for each in value:
                lines.append(f"{indent}{name[:-1]} {each['name']}")
                lines.append(each["stack"])
        elif isinstance(value, str) and "\n" in value:
            lines += [f"{indent}{name}", value]
        else:
            lines.append(f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)


@click.group("debug")
def commands() -> None:
    """Look inside the running processes of this container or host."""


@commands.command()
@pid_option
def tasks(pid: int | None) -> None:
    """What each process is doing: event loop, tasks and threads, with their stacks."""
    _print(_ask(pid, "tasks"))


@commands.command()
@pid_option
def pools(pid: int | None) -> None:
    """Connections in use, their maximum, and who waits for one."""
    _print(_ask(pid, "pools"))


@commands.command()
@pid_option
def settings(pid: int | None) -> None:
    """The settings in effect, without secrets."""
    _print(_ask(pid, "settings"))


@commands.command("gc")
@pid_option
def garbage(pid: int | None) -> None:
    """Statistics of the garbage collector."""
    _print(_ask(pid, "gc"))


@commands.command("log-level")
@click.argument("level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], False))
@click.option("--minutes", default=10.0, show_default=True, help="Then LOG_LEVEL counts again.")
@pid_option
def log_level(level: str, minutes: float, pid: int | None) -> None:
    """Set the log level for some minutes."""
    _print(_ask(pid, "log-level", level=level, minutes=minutes))


@commands.command()
@click.option("--seconds", default=10.0, show_default=True, help="At most 60.")
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="profile.html",
    help="-: the standard output.",
)
@pid_option
def profile(seconds: float, output: TextIO, pid: int | None) -> None:
    """Profile the event loop of one process, and write HTML."""
    pids = debug_socket.processes() if pid is None else [pid]
    if len(pids) > 1:
        listed = ", ".join(map(str, pids))
        raise click.UsageError(f"Choose one process with --pid: {listed}.")
    answers = _ask(pid, "profile", seconds=seconds)
    for each, answer in answers.items():
        output.write(answer)
        click.echo(f"process {each}: {output.name}", err=True)


@commands.command()
@click.option("--seconds", default=30.0, show_default=True, help="At most 60.")
@pid_option
def memory(seconds: float, pid: int | None) -> None:
    """The lines whose memory grows, and what there are most objects of."""
    _print(_ask(pid, "memory", seconds=seconds))


def add_commands(cli: click.Group) -> None:
    """Add ``debug`` to ``cli``."""
    cli.add_command(commands)
