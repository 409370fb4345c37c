"""A process of its own that reads one cached key many times at once: for `test_cache_processes`.

Its arguments: the kind's name, the number of callers, and what the load does ("count" or "hang").
It prints a line when it is ready, begins when it reads one, and prints the values that it got.
"""

import asyncio
import sys

from prometheus_client import CollectorRegistry

from app.platform.data.cache import Cache, Cached, CacheMetrics
from app.platform.data.redis import create_client
from app.settings import get_settings


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(name: str, callers: int, what: str) -> None:
    settings = get_settings()
    kind = Cached(name, int, ttl=60, load_timeout=2)
    async with create_client(settings) as redis:
        cache = Cache(redis, CacheMetrics(CollectorRegistry()), settings)

        async def load() -> int:
            loads = int(await redis.incr(f"{name}:loads"))
            if what == "hang":
                say("loading")
                await asyncio.Event().wait()
            await asyncio.sleep(0.2)  # so that callers of both processes come in meanwhile
            return loads

        await redis.ping()
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        values = await asyncio.gather(*(cache.get(kind, "key", load) for _ in range(callers)))
        say(f"{len(values)} {' '.join(map(str, set(values)))}")
        await cache.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
