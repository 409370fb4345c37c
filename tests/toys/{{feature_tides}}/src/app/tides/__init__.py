"""When the water comes: a toy feature, which is a part, too."""

from fastapi import FastAPI

from app.settings import Settings


def setup(app: FastAPI, settings: Settings) -> None:
    app.state.tides = "high and low"
