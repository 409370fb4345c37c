"""The processes that serve the API."""
