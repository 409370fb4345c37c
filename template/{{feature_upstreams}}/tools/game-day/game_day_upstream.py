"""A route of the game day that calls another service."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.platform.data.upstreams import Upstream, upstream

PEER = upstream("game_day", base_url="http://peer:8080")

router = APIRouter(prefix="/game-day", include_in_schema=False)


@router.get("/upstream")
async def call(peer: Annotated[Upstream, Depends(PEER)]) -> int:
    return (await peer.get("/")).status_code
