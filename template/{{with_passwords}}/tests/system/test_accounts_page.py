"""docs/accounts.md: its commands, run in their order, with a real mail server."""

import asyncio
import re
from pathlib import Path

from tests.conftest import ROOT
from tests.mail import MailServer, link_token, mail_server, plain
from tests.system.serving import Serve

COMMANDS = re.findall(r"(?ms)^```sh\n(.*?)^```$", (ROOT / "docs/accounts.md").read_text())
SUBJECTS = [
    "Confirm your e-mail address",
    "Your password was changed",
    "Choose a new password",
    "Your password was changed",
    "Confirm your new e-mail address",
    "Your e-mail address was changed",
    "Your account was deleted",
]


async def run(command: str, state: Path, url: str, token: str) -> str:
    """The output of a command in Bash, which keeps the variables of those before it."""
    keep = f"declare -p API JSON AUTH >{state} 2>/dev/null || :"
    script = f"set -e; touch {state}; . {state}; TOKEN={token}\n{command}\n{keep}\n"
    script = script.replace("http://localhost:8000", url)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


async def newest_token(mails: MailServer, number: int) -> str:
    """The token of the mail with this number, counting those with links."""

    def links() -> list[str]:
        return [link_token(each) for each in mails.received if "#token=" in plain(each)]

    async with asyncio.timeout(30):
        while len(links()) < number:
            mails.arrived.clear()
            await mails.arrived.wait()
    return links()[-1]


async def test_the_commands_of_the_page_work_in_their_order(serve: Serve, tmp_path: Path) -> None:
    async with mail_server() as mails:
        settings = {"SMTP_URL": mails.url, "SMTP_TLS": "off", "MAIL_POLL_INTERVAL": "0.2"}
        server = await asyncio.to_thread(serve, "app", "serve", **settings)
        used, outputs = 0, []
        for command in COMMANDS:
            used += "$TOKEN" in command
            token = await newest_token(mails, used) if "$TOKEN" in command else ""
            outputs.append(await run(command, tmp_path / "state", server.url, token))
        await mails.receives(len(SUBJECTS))

    assert '"email":"ada@example.org"' in outputs[-2]  # the export
    assert [message["Subject"].partition(" - ")[0] for message in mails.received] == SUBJECTS
    assert all(message.get_body(("html",)) for message in mails.received)
