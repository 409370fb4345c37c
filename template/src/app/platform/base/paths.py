"""The path of a request, below the prefix under which clients reach this service.

The prefix is ASGI's ``root_path``, and part of ASGI's ``path``: it comes from ``ROOT_PATH``, from
the server, or from an app that mounts this one. Compare ``route_path(scope)``, never ``path``.
"""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path as routes declare it, such as ``/api/v1/orders``."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and _is_below(path, prefix) else path


def set_prefix(scope: Scope, prefix: str) -> None:
    """Set the prefix, unless the server has, whether or not a proxy has removed it from the path.

    Probes that come directly, and not through the proxy, lack it as well.
    """
    if prefix and not scope.get("root_path"):
        scope["root_path"] = prefix
        if not _is_below(scope["path"], prefix):
            scope["path"] = prefix + scope["path"]
            if scope.get("raw_path"):
                scope["raw_path"] = prefix.encode() + scope["raw_path"]


def _is_below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")
