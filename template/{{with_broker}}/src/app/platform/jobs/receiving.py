"""What receiving jobs takes: nothing of Postgres, since the ids come from the broker."""

RECEIVER_CONNECTIONS = 0  # of a worker, to Postgres and outside of its pool
