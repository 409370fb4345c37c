"""The mails of a game day."""

from fastapi import APIRouter

from app.platform.data import mail
from app.platform.data.database import SessionDep

router = APIRouter(prefix="/game-day", include_in_schema=False)


@router.post("/mail", status_code=202)
async def send_mail(session: SessionDep) -> None:
    text = "Nothing is to be done."
    await mail.send(session, mail.Mail("game_day", "ada@example.com", "Game day", text, text))
