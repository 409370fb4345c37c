"""Callers, for administrators, who revoke their tokens; the provider manages their accounts."""

from uuid import UUID

from fastapi import Request

from app.platform.auth import audit_log
from app.platform.auth.administration import ActorDep, administration_router
from app.platform.auth.revocations import Revocations
from app.platform.base.errors import Unavailable
from app.platform.data.database import SessionDep
from app.platform.http.problems import responses

router = administration_router("/callers")


@router.post("/{caller_id:uuid}/end-sessions", status_code=204, responses=responses(Unavailable))
async def end_caller_sessions(
    caller_id: UUID, actor: ActorDep, request: Request, db: SessionDep
) -> None:
    """Revoke all access tokens that a caller was issued until now, by the `id` of `/auth/me`.

    They can get new ones while the provider lets them: disable them there first.
    """
    revocations: Revocations = request.app.state.revocations
    await audit_log.record(db, actor, "caller_end_sessions", str(caller_id))
    await revocations.revoke_subject(str(caller_id))
