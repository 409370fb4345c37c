"""ClamAV: a file is streamed to its daemon, clamd, which answers what it has found (INSTREAM)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

MAX_REPLY = 4096  # bytes
REPLY_TIMEOUT = 120  # seconds from the end of the file


class ScanFailed(Exception):
    """The daemon is unavailable, or could not scan; another attempt may succeed."""


class TooLargeToScan(Exception):
    """The file is larger than the daemon's ``StreamMaxLength``."""


async def find_malware(address: str, parts: AsyncIterator[bytes]) -> str | None:
    """The name of the malware that a file contains, or ``None``; ``address``: host:port of clamd.

    Raises ``ScanFailed`` and ``TooLargeToScan``.
    """
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        # Read at once: to a file that is too large it answers, and closes, before the end.
        answer = asyncio.create_task(reader.readuntil(b"\0"))
        try:
            with suppress(ConnectionError):
                await _send(writer, parts, answer)
            async with asyncio.timeout(REPLY_TIMEOUT):
                reply = await answer
        finally:
            answer.cancel()
            writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ScanFailed(f"{address}: {type(error).__name__}") from error
    return _result(reply[:MAX_REPLY].rstrip(b"\0").decode(errors="replace").strip())


async def _send(
    writer: asyncio.StreamWriter, parts: AsyncIterator[bytes], answer: "asyncio.Task[bytes]"
) -> None:
    writer.write(b"zINSTREAM\0")
    async for part in parts:
        if answer.done():
            return
        writer.write(len(part).to_bytes(4))
        writer.write(part)
        await writer.drain()
    writer.write(bytes(4))
    await writer.drain()


def _result(reply: str) -> str | None:
    """The malware of a reply such as ``stream: OK`` or ``stream: Eicar-Test-Signature FOUND``."""
    if reply == "stream: OK":
        return None
    if reply.endswith(" FOUND"):
        return reply.removeprefix("stream: ").removesuffix(" FOUND")
    if "size limit exceeded" in reply:
        raise TooLargeToScan(reply)
    raise ScanFailed(reply)
