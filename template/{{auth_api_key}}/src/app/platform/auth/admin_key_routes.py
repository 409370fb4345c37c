"""API keys, for administrators: what ``app keys`` does to existing keys, by the same functions.

``/auth/keys`` creates and rotates them.
"""

from typing import Annotated

from fastapi import Depends, Path, Query
from pydantic import AwareDatetime

from app.platform.auth import keys
from app.platform.auth.administration import ActorDep, administration_router
from app.platform.auth.schemas import KeyRead, Owner
from app.platform.base.errors import NotFound
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.pagination import Page, Paging, paging
from app.platform.http.problems import responses
from app.platform.http.schemas import STORABLE

router = administration_router("/keys")

Position = tuple[AwareDatetime, str]
KeyPaging = Annotated[Paging[Position], Depends(paging("admin-keys", Position))]
KeyId = Annotated[str, STORABLE, Path(max_length=64, examples=["a1b2c3d4e5f60718"])]


@router.get("")
async def list_all_keys(
    session: ReadSessionDep,
    paging: KeyPaging,
    owner: Annotated[Owner | None, Query()] = None,
) -> Page[KeyRead]:
    """The keys of all owners or of one, newest first, including revoked and expired ones."""
    rows = await session.all(keys.select_page(paging.limit, paging.after, owner))
    page = paging.page(rows, lambda row: (row.created_at, row.id))
    return Page(items=[KeyRead.model_validate(row) for row in page.items], next=page.next)


@router.get("/{key_id}", responses=responses(NotFound))
async def get_key(key_id: KeyId, db: SessionDep) -> KeyRead:
    """A key, without its secret."""
    return KeyRead.model_validate(await keys.get(db, key_id))


@router.post("/{key_id}/disable", responses=responses(NotFound))
async def disable_key(key_id: KeyId, actor: ActorDep, db: SessionDep) -> KeyRead:
    """Refuse a key until it is enabled."""
    key = await keys.get_for_update(db, key_id)
    await keys.disable(db, actor, key)
    return KeyRead.model_validate(key)


@router.post("/{key_id}/enable", responses=responses(NotFound))
async def enable_key(key_id: KeyId, actor: ActorDep, db: SessionDep) -> KeyRead:
    """Accept a disabled key again; a revoked or expired one stays refused."""
    key = await keys.get_for_update(db, key_id)
    await keys.enable(db, actor, key)
    return KeyRead.model_validate(key)


@router.post("/{key_id}/revoke", responses=responses(NotFound))
async def revoke_key(key_id: KeyId, actor: ActorDep, db: SessionDep) -> KeyRead:
    """Revoke a key for good."""
    key = await keys.get_for_update(db, key_id)
    await keys.revoke(db, actor, key)
    return KeyRead.model_validate(key)
