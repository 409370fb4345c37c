"""The state of rooms in Redis: their members, and the messages that clients have acknowledged."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from app.platform.data.redis import REDIS_ERRORS
from app.platform.data.topics import Id, parse_id

PRESENCE_TTL = 15.0  # seconds since its last heartbeat until a member has left
# Members, with the time at which they expire; each arrival and departure is announced once.
SHOW_PRESENCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function announce(kind, member)
  local message = cjson.encode({type = kind, member = member})
  redis.call('PUBLISH', KEYS[2], '\\n' .. kind .. '\\n' .. message)
end
for i = 2, #ARGV do
  if redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) == 1 then announce('joined', ARGV[i]) end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], member)
  announce('left', member)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
"""
# The last message that a client has acknowledged; an older one does not replace it.
ACKNOWLEDGE = """
local function parts(id)
  return tonumber(string.match(id, '^%d+')), tonumber(string.match(id, '%d+$'))
end
local time, number = parts(ARGV[1])
local before = redis.call('GET', KEYS[1])
if before then
  local old_time, old_number = parts(before)
  if old_time > time or (old_time == time and old_number >= number) then return end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
"""


class RoomState:
    """The state of all rooms. ``retention``: seconds for which acknowledgements are kept."""

    def __init__(self, redis: Redis, retention: int) -> None:
        self._redis: Any = redis  # typed differently by the versions of redis-py
        self._retention = retention

    async def add_members(self, channel: str, callers: Iterable[str]) -> None:
        """Add members, or extend their presence, and announce changes on ``channel``; best effort.

        Also removes the members of other processes that have expired.
        """
        keys = (_members_key(channel), channel)
        with suppress(*REDIS_ERRORS):
            await self._redis.eval(
                SHOW_PRESENCE, len(keys), *keys, int(PRESENCE_TTL * 1000), *callers
            )

    async def members(self, channel: str) -> list[str]:
        """The members of a room with presence."""
        return list(await self._redis.zrange(_members_key(channel), 0, -1))

    async def acknowledge(self, topic: str, client: str, message_id: str) -> None:
        """Store the last message that a client has received; best effort."""
        if parse_id(message_id):
            with suppress(*REDIS_ERRORS):  # the next one counts for this one, too
                await self._redis.eval(
                    ACKNOWLEDGE, 1, _ack_key(topic, client), message_id, self._retention
                )

    async def acknowledged(self, topic: str, client: str) -> Id | None:
        """The last message that a client has acknowledged. Raises errors of Redis."""
        return parse_id(await self._redis.get(_ack_key(topic, client)) or "")


def _members_key(channel: str) -> str:
    return f"members:{channel}"


def _ack_key(topic: str, client: str) -> str:
    """A key for each client, so that each expires by itself."""
    return f"ack:{topic}\n{client}"
