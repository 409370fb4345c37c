"""One process of `app dev`: under a guard, with its name before each line of its output."""

import asyncio
import sys
from asyncio import LimitOverrunError, StreamReader, StreamWriter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket

from app.platform.dev import guard

STOP_SECONDS = 5  # for requests and jobs in progress; then they are cut off
MAX_LINE_BYTES = 1 << 24  # bytes; a traceback in a JSON log is one line
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"The edited code does not start: the output of `app dev` has the reason.\n"
)


class DevError(Exception):
    """`app dev` cannot continue; the message says why."""


class Child:
    """A named process.

    `label`: the prefix of each line of its output. `listener`: the socket that it serves and
    inherits. Requests wait there while it restarts, and get 503 while it can't start.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        label: str,
        folder: Path,
        environment: dict[str, str],
        listener: socket | None = None,
    ) -> None:
        self.name = name
        self.argv = argv
        self.label = label
        self.folder = folder
        self.environment = environment
        self.listener = listener
        self.edited = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Run once; return the exit code. When cancelled, stop it and wait until it has exited."""
        fds = [self.listener.fileno()] if self.listener else []
        self.process = await asyncio.create_subprocess_exec(
            *guard.command(self.argv, kill_after=STOP_SECONDS, fds=fds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            pass_fds=fds,
        )
        try:
            await self._show_output()
            return await self.process.wait()
        finally:
            self.stop()
            await self._show_output()
            await self.process.wait()

    async def supervise(self) -> None:
        """Run until cancelled, and again after each edit. Raise `DevError` when it just ends.

        One that an edit has broken waits for the next edit, which may be the repair.
        """
        after_edit = False
        while True:
            code = await self.run()
            if not self.edited.is_set():
                if not after_edit:
                    raise DevError(f"{self.name} ended with exit code {code}, so the rest stopped")
                self.show(f"ended with exit code {code}; it starts again after the next edit")
                await self._wait_for_edit()
            self.edited.clear()
            after_edit = True

    async def _wait_for_edit(self) -> None:
        if self.listener is None:
            await self.edited.wait()
            return
        stand_in = await asyncio.start_server(_answer_503, sock=self.listener.dup())
        try:
            await self.edited.wait()
        finally:
            stand_in.close()

    def restart(self) -> None:
        """End the process, for `supervise` to start it with the edited source."""
        self.edited.set()
        self.stop()

    def stop(self) -> None:
        """Have its guard stop it; do not wait."""
        if self.process and self.process.stdin:
            self.process.stdin.close()

    def show(self, line: str) -> None:
        """Write a line under the name of this process."""
        sys.stdout.write(f"{self.label}{line}\n")
        sys.stdout.flush()

    async def _show_output(self) -> None:
        assert self.process
        assert self.process.stderr
        async for line in self.process.stderr:
            self.show(line.decode(errors="replace").rstrip("\n"))


async def _answer_503(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError, EOFError, LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNAVAILABLE)
        await writer.drain()
    writer.close()
