"""A server that resets each connection, and a client whose event loop is late to notice.

uvloop has closed such a connection by the time that the client writes to it, and raises other
errors than asyncio does.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

RESET = struct.pack("ii", 1, 0)  # closing discards what was not sent, and resets


@asynccontextmanager
async def resetting_server() -> AsyncIterator[str]:
    """Yield the address of a server while this event loop is busy."""
    loop = asyncio.get_running_loop()
    done = threading.Event()

    def accept() -> None:
        while not done.is_set():
            with suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def delay() -> None:
        time.sleep(0.0005)
        if not done.is_set():
            loop.call_soon(delay)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=accept)
        thread.start()
        delay()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            thread.join()
