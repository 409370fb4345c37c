"""The setting that saves reads the lookup of their caller, for ``compare.py path``."""

ENVIRONMENT = {"AUTH_CACHE_MAX_AGE": "1"}
