"""Without a queue there is no process beside the API, and none that connects to Postgres."""

from app.settings import Settings


def connections(settings: Settings) -> dict[str, int]:
    """Return nothing: the API's own are counted elsewhere."""
    return {}
