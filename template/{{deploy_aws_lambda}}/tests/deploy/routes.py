"""The function with additional routes for tests."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import BackgroundTasks, Cookie, FastAPI, Request, Response
from sqlalchemy import func, select

from app import function
from app.main import create_app
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http import routing
from app.platform.observability.logs import get_logger
from app.settings import Settings

logger = get_logger(__name__)


async def seen(request: Request, a: Annotated[str, Cookie()] = "") -> dict[str, Any]:
    """The request as the app sees it."""
    return {
        "path": request.url.path,
        "query": request.url.query,
        "scheme": request.url.scheme,
        "client": request.client.host if request.client else None,
        "cookies": request.cookies,
        "a": a,
        "accept": request.headers.get("accept"),
    }


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def cookies() -> Response:
    response = Response("é")
    response.set_cookie("one", "1")
    response.set_cookie("two", "2")
    response.headers.append("Vary", "A")
    response.headers.append("Vary", "B")
    return response


async def database(session: SessionDep, reads: ReadSessionDep) -> dict[str, Any]:
    """Use a transaction and a read, as an authenticated route does."""
    await session.execute(select(1))
    row = await reads.first(select(func.pg_backend_pid()))
    assert row
    return {"connection": row[0], "process": os.getpid()}


async def cache(request: Request) -> str:
    await request.app.state.redis.set("frozen", "thawed")
    return str(await request.app.state.redis.get("frozen"))


async def fail() -> None:
    raise RuntimeError("the password is hunter2")


async def slow() -> None:
    await asyncio.sleep(3600)


async def terminated() -> str:
    """Receive SIGTERM during a request."""
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.5)
    logger.info("the work is done")
    return "done"


async def behind(request: Request) -> str:
    """Respond while a task of the request still runs."""

    async def work() -> None:
        await asyncio.sleep(0.3)
        logger.info("task finished")

    request.app.state.work = asyncio.create_task(work())
    return "done"


async def background(tasks: BackgroundTasks) -> str:
    tasks.add_task(asyncio.sleep, 3600)
    return "done"


def with_routes(settings: Settings | None = None) -> FastAPI:
    app = create_app(settings)
    for route in (seen, cookies, database, cache, fail, slow, terminated, behind, background):
        app.add_api_route(f"/test/{route.__name__}", route, response_model=None)
    app.add_api_route("/test/echo", echo, methods=["POST"], response_model=None)
    app.add_api_route("/test/a b/{name}", seen, response_model=None)
    routing.install_index(app)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            yield state
        logger.info("components stopped")

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    function.create_app = with_routes
    function.main()
