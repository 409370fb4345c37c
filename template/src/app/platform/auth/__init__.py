"""Callers and their credentials, by the chosen auth style; features import ``app.auth``."""
