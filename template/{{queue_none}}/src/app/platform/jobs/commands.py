"""Without a queue there is no process beside the API, and nothing to look after."""

import click

BACKGROUND_PROCESSES: tuple[str, ...] = ()


def add_commands(cli: click.Group) -> None:
    """Add nothing."""
