"""Postgres, Redis and outgoing HTTP."""
