"""Names of the queue and of its task, the same for every transport."""

from app.platform import about

QUEUE = f"{about.NAME}.jobs"
TASK = "app.jobs.run"
