"""Tides: a toy feature."""
