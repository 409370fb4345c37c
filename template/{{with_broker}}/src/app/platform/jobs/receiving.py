"""Connections for receiving messages: none of Postgres, since they come from the broker."""

RECEIVER_CONNECTIONS = 0  # of a worker, to Postgres and outside of its pool
