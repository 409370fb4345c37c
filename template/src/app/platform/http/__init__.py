"""Incoming HTTP: what surrounds the routes."""
