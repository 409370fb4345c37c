"""The list beside ARQ's queue: ARQ polls, and an entry ends the pause of one worker."""

from app.platform.jobs.names import QUEUE

WAKEUPS = f"{QUEUE}.published"
MAX_WAKEUPS = 100
