"""Traces, as who takes them gets them."""
