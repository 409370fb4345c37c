"""Routes of the keys: for callers with the scope ``keys``, their own; with ``keys:admin``, all."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.auth import keys
from app.auth.current import CurrentUser, require
from app.auth.identity import User
from app.auth.models import ApiKey
from app.auth.schemas import KeyCreate, KeyMade, KeyRead, KeyRotate, Me, Owner
from app.platform.base.errors import Conflict, Forbidden, NotFound, Unauthorized
from app.platform.data.database import SessionDep
from app.platform.http import audit
from app.platform.http.problems import responses
from app.settings import Settings

OWN = "keys"
ALL = "keys:admin"

router = APIRouter(responses=responses(Unauthorized))
Manager = Annotated[User, require(OWN)]


@router.get("/me")
async def me(user: CurrentUser, response: Response) -> Me:
    """Say who you are."""
    response.headers["Cache-Control"] = "no-store"
    return Me(id=user.id, scopes=sorted(user.scopes), key_id=user.credential)


@router.get("/keys", responses=responses(Forbidden))
async def browse(
    user: Manager,
    db: SessionDep,
    response: Response,
    owner: Annotated[Owner | None, Query()] = None,
) -> list[KeyRead]:
    """List your keys, newest first, or those of another owner if you may."""
    response.headers["Cache-Control"] = "no-store"
    found = await keys.all_of(db, _reachable(user, owner or user.id))
    return [KeyRead.model_validate(key) for key in found]


@router.post("/keys", status_code=201, responses=responses(Forbidden))
async def create(
    data: KeyCreate, user: Manager, db: SessionDep, request: Request, response: Response
) -> KeyMade:
    """Make a key. It may do no more than the one that you call with."""
    owner = _reachable(user, data.owner or user.id)
    _refuse_more(user, data.scopes)
    settings: Settings = request.app.state.settings
    lifetime = timedelta(days=data.expires_in_days or settings.api_key_lifetime_days)
    key, text = await keys.create(db, settings.api_key_prefix, owner, data.scopes, lifetime)
    audit.succeeded(request, "key_create", owner)
    return _shown_once(response, key, text)


@router.post(
    "/keys/{key_id}/rotate", status_code=201, responses=responses(Forbidden, NotFound, Conflict)
)
async def rotate(
    key_id: str,
    data: KeyRotate,
    user: Manager,
    db: SessionDep,
    request: Request,
    response: Response,
) -> KeyMade:
    """Trade a key for another one with the same scopes. Both are good for the overlap."""
    old = await _find(db, user, key_id)
    _refuse_more(user, old.scopes)
    settings: Settings = request.app.state.settings
    lifetime = timedelta(days=data.expires_in_days or settings.api_key_lifetime_days)
    overlap = timedelta(hours=data.overlap_hours)
    key, text = await keys.rotate(db, settings.api_key_prefix, old, lifetime, overlap)
    audit.succeeded(request, "key_rotate", old.owner)
    return _shown_once(response, key, text)


@router.delete("/keys/{key_id}", status_code=204, responses=responses(Forbidden, NotFound))
async def revoke(key_id: str, user: Manager, db: SessionDep, request: Request) -> None:
    """End a key: it is refused from now on."""
    key = await _find(db, user, key_id)
    await keys.revoke(db, key)
    audit.succeeded(request, "key_revoke", key.owner)


async def _find(db: SessionDep, user: User, key_id: str) -> ApiKey:
    key = await keys.find(db, key_id)
    if key.owner != user.id and ALL not in user.scopes:
        raise NotFound("There is no such key.")
    return key


def _reachable(user: User, owner: str) -> str:
    if owner != user.id and ALL not in user.scopes:
        raise Forbidden(f"The keys of others need: {ALL}.")
    return owner


def _refuse_more(user: User, scopes: list[str]) -> None:
    """Keep a key from making one that may do more than itself."""
    if ALL not in user.scopes and (more := set(scopes) - user.scopes):
        raise Forbidden(f"Your own key may not: {' '.join(sorted(more))}.")


def _shown_once(response: Response, key: ApiKey, text: str) -> KeyMade:
    response.headers["Cache-Control"] = "no-store"
    return KeyMade(**KeyRead.model_validate(key).model_dump(), key=text)
