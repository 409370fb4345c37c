"""The forecast, a component: a toy."""

from fastapi import FastAPI

from app.settings import Settings


def setup(app: FastAPI, settings: Settings) -> None:
    app.state.tides = "high and low"
