"""A worker that soon notices that its connection for notifications is gone."""

from app.platform.jobs import postgres_worker
from tests.platform.jobs import samples as samples

postgres_worker.PING_INTERVAL = 0.2
