"""The list beside ARQ's queue: ARQ polls, and an entry ends the pause of one worker."""

from app.platform.jobs.names import QUEUE

BELL = f"{QUEUE}.published"
MAX_BELLS = 100
