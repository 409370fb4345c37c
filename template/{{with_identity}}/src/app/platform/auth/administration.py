"""Dependencies of the administrators' routes: their scope, and the actor of a change."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.platform.auth.audit_log import Actor, actor_of
from app.platform.auth.current import require
from app.platform.auth.identity import User
from app.platform.base.errors import Forbidden, Unauthorized
from app.platform.http.openapi import Tag
from app.platform.http.problems import responses

SCOPE = "admin"
Administrator = Annotated[User, require(SCOPE)]


def administration_router(prefix: str) -> APIRouter:
    """A router below ``/admin`` whose every route requires the scope ``admin``."""
    return APIRouter(
        prefix=f"/admin{prefix}",
        tags=[Tag("administration", "For callers with the scope `admin`; changes are audited.")],
        dependencies=[require(SCOPE)],
        responses=responses(Unauthorized, Forbidden),
    )


async def _actor(request: Request, administrator: Administrator) -> Actor:
    return actor_of(request, administrator.id)


ActorDep = Annotated[Actor, Depends(_actor)]
