"""Without a queue there is no process beside the API, and none that connects to Postgres."""

from app.platform.settings import PlatformSettings


def background_connections(settings: PlatformSettings) -> dict[str, int]:
    """Return nothing: the API's own are counted elsewhere."""
    return {}
