"""Commands of the background jobs: none, because jobs run in the API process."""

import click

BACKGROUND_PROCESSES: tuple[str, ...] = ()


def add_commands(cli: click.Group) -> None:
    """Add no commands."""
