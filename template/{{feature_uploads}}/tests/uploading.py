"""An app with routes for uploads, and files, for tests."""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Header, Request, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.errors import NotFound
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http import routing
from app.platform.http.problems import DEFAULT_RESPONSES
from app.platform.http.upload_schemas import (
    UPLOAD_BODY,
    DownloadLink,
    UploadCreate,
    UploadLink,
    UploadRead,
)
from app.platform.http.uploads import UploadsDep
from app.settings import Settings
from tests.conftest import running_app

PNG = b"\x89PNG\r\n\x1a\n" + zlib.compress(b"a picture" * 100)
HTML = b"<!doctype html><script>alert(1)</script>"

Owner = Annotated[str, Header(alias="x-owner")]


def create_router() -> APIRouter:
    """Routes for files of records, below ``/test/{record}``, of the caller in ``X-Owner``."""
    router = APIRouter(
        prefix="/test/{record}/files",
        responses=DEFAULT_RESPONSES,
        generate_unique_id_function=lambda route: f"{route.name}_in_a_test",
    )

    async def authorize(_: AsyncSession) -> None:
        """Refuse nobody."""

    @router.post("", status_code=201, openapi_extra=UPLOAD_BODY)
    async def receive(
        record: str, name: str, request: Request, uploads: UploadsDep, x_owner: Owner = "ada"
    ) -> UploadRead:
        async def exists(_: AsyncSession) -> None:
            if record == "missing":
                raise NotFound("There is no such record.")

        return await uploads.receive(
            request, owner=x_owner, record=record, name=name, authorize=exists
        )

    @router.get("")
    async def read_all(
        record: str, session: ReadSessionDep, uploads: UploadsDep, x_owner: Owner = "ada"
    ) -> list[UploadRead]:
        return list(await uploads.of_record(session, owner=x_owner, record=record))

    @router.get("/{file_id}")
    async def send(
        record: str,
        file_id: UUID,
        session: ReadSessionDep,
        request: Request,
        uploads: UploadsDep,
        x_owner: Owner = "ada",
    ) -> Response:
        upload = await uploads.get(session, file_id, owner=x_owner, record=record)
        return await uploads.send(request, upload)

    @router.delete("/{file_id}", status_code=204)
    async def remove(
        record: str,
        file_id: UUID,
        session: SessionDep,
        uploads: UploadsDep,
        fail: bool = False,
        x_owner: Owner = "ada",
    ) -> None:
        await uploads.delete(session, owner=x_owner, record=record, upload_id=file_id)
        if fail:
            raise NotFound("Something else is missing.")

    @router.post("/links", status_code=201)
    async def create_link(
        record: str, data: UploadCreate, uploads: UploadsDep, x_owner: Owner = "ada"
    ) -> UploadLink:
        return await uploads.create_link(data, owner=x_owner, record=record, authorize=authorize)

    @router.post("/{file_id}/completion")
    async def complete(
        record: str, file_id: UUID, uploads: UploadsDep, x_owner: Owner = "ada"
    ) -> UploadRead:
        return await uploads.complete(file_id, owner=x_owner, record=record, authorize=authorize)

    @router.get("/{file_id}/link")
    async def download_link(
        record: str,
        file_id: UUID,
        session: ReadSessionDep,
        uploads: UploadsDep,
        x_owner: Owner = "ada",
    ) -> DownloadLink:
        upload = await uploads.get(session, file_id, owner=x_owner, record=record)
        return await uploads.download_link(upload)

    return router


@asynccontextmanager
async def uploading_app(settings: Settings, **changes: Any) -> AsyncIterator[FastAPI]:
    """An app with these routes."""
    async with running_app(settings.model_copy(update=changes)) as app:
        app.include_router(create_router())
        routing.install_index(app)
        yield app


def objects(folder: Path) -> list[str]:
    """The names of everything in a folder of objects, complete or not."""
    return sorted(path.name for path in folder.iterdir())


async def execute(app: FastAPI, statement: str, **values: Any) -> list[Any]:
    """The rows of a statement; it is committed."""
    async with app.state.db.transaction() as session:
        result = await session.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []
