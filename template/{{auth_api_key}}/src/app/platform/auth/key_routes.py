"""Key routes: the scope ``keys`` covers the caller's own keys, ``keys:admin`` those of all."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.platform.auth import keys
from app.platform.auth.audit_log import actor_of
from app.platform.auth.current import CurrentUser, require
from app.platform.auth.identity import User
from app.platform.auth.models import ApiKey
from app.platform.auth.schemas import KeyCreate, KeyCreated, KeyRead, KeyRotate, Me, Owner
from app.platform.base.errors import Conflict, Forbidden, NotFound, Unauthorized
from app.platform.data.database import SessionDep
from app.platform.http.problems import responses
from app.platform.settings import PlatformSettings

OWN = "keys"
ALL = "keys:admin"

router = APIRouter(responses=responses(Unauthorized))
Manager = Annotated[User, require(OWN)]


@router.get("/me")
async def me(user: CurrentUser, response: Response) -> Me:
    """The authenticated caller."""
    response.headers["Cache-Control"] = "no-store"
    return Me(id=user.id, scopes=sorted(user.scopes), key_id=user.credential)


@router.get("/keys", responses=responses(Forbidden))
async def list_keys(
    user: Manager,
    db: SessionDep,
    response: Response,
    owner: Annotated[Owner | None, Query()] = None,
) -> list[KeyRead]:
    """List your keys, newest first; with the scope `keys:admin`, those of any owner."""
    response.headers["Cache-Control"] = "no-store"
    found = await keys.list_keys(db, _managed_owner(user, owner or user.id))
    return [KeyRead.model_validate(key) for key in found]


@router.post("/keys", status_code=201, responses=responses(Forbidden))
async def create(
    data: KeyCreate, user: Manager, db: SessionDep, request: Request, response: Response
) -> KeyCreated:
    """Create a key. It gets at most the scopes of the key that you authenticate with."""
    owner = _managed_owner(user, data.owner or user.id)
    _refuse_escalation(user, data.scopes)
    settings: PlatformSettings = request.app.state.settings
    lifetime = timedelta(days=data.expires_in_days or settings.api_key_lifetime_days)
    actor, prefix = actor_of(request, user.id), settings.api_key_prefix
    key, text = await keys.create(db, actor, prefix, owner, data.scopes, lifetime)
    return _created(response, key, text)


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
) -> KeyCreated:
    """Replace a key by a new one with the same scopes. Both are valid during the overlap."""
    old = await _find(db, user, key_id)
    _refuse_escalation(user, old.scopes)
    settings: PlatformSettings = request.app.state.settings
    lifetime = timedelta(days=data.expires_in_days or settings.api_key_lifetime_days)
    overlap = timedelta(hours=data.overlap_hours)
    actor, prefix = actor_of(request, user.id), settings.api_key_prefix
    key, text = await keys.rotate(db, actor, prefix, old, lifetime, overlap)
    return _created(response, key, text)


@router.delete("/keys/{key_id}", status_code=204, responses=responses(Forbidden, NotFound))
async def revoke(key_id: str, user: Manager, db: SessionDep, request: Request) -> None:
    """Revoke a key. It stops working immediately."""
    key = await _find(db, user, key_id)
    await keys.revoke(db, actor_of(request, user.id), key)


async def _find(db: SessionDep, user: User, key_id: str) -> ApiKey:
    key = await keys.get_for_update(db, key_id)
    if key.owner != user.id and ALL not in user.scopes:
        raise NotFound("This key does not exist.")
    return key


def _managed_owner(user: User, owner: str) -> str:
    if owner != user.id and ALL not in user.scopes:
        raise Forbidden(f"Keys of other owners require the scope {ALL}.")
    return owner


def _refuse_escalation(user: User, scopes: list[str]) -> None:
    """Raise ``Forbidden`` if ``scopes`` exceed those of the caller."""
    if ALL not in user.scopes and (excess := set(scopes) - user.scopes):
        raise Forbidden(f"Your own key lacks: {' '.join(sorted(excess))}.")


def _created(response: Response, key: ApiKey, text: str) -> KeyCreated:
    response.headers["Cache-Control"] = "no-store"
    return KeyCreated(**KeyRead.model_validate(key).model_dump(), key=text)
