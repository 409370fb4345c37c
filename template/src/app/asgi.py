"""The app as a variable, for tools that take no factory: ``fastapi dev``, editors, ``uvicorn``.

It is created when it is first read, not at import.
"""

from functools import cache

from fastapi import FastAPI

from app.main import create_app

_create_once = cache(create_app)


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(name)
    return _create_once()


def __dir__() -> list[str]:
    return ["app"]
