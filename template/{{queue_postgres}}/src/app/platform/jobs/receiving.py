"""Connections for receiving jobs: one of its own, to LISTEN."""

RECEIVER_CONNECTIONS = 1  # of a worker, to Postgres and outside of its pool
