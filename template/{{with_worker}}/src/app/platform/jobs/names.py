"""Names of the queue, and of the task that runs a job, in whatever carries the job ids."""

from app.platform import about

QUEUE = f"{about.NAME}.jobs"
TASK = "app.jobs.run"
