"""Connection pools of background processes: none, because jobs run in the API process."""

from app.platform.settings import PlatformSettings


def background_connections(settings: PlatformSettings) -> dict[str, int]:
    """No connections besides those of the API."""
    return {}
