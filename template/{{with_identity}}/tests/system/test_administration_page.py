"""docs/administration.md: its commands, run in their order."""

import asyncio
import json
import re
import sys
from pathlib import Path

from tests.commands import run_command
from tests.conftest import ROOT
from tests.system.serving import Serve

PAGE = (ROOT / "docs/administration.md").read_text()
FIRST, *OTHERS = re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE)
# A process takes a second to start: the first block starts them, the others ask this one.
ASK = """
import json, os, socket, sys
here = socket.socket(socket.AF_UNIX)
here.connect(sys.argv[1])
here.sendall(json.dumps([dict(os.environ), sys.argv[2:]]).encode())
here.shutdown(socket.SHUT_WR)
code, out, err = json.load(here.makefile())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


async def test_the_commands_of_the_page_work_in_their_order(
    serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        env, arguments = json.loads(await reader.read())
        done = await asyncio.to_thread(run_command, *arguments, env=env)
        writer.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode())
        writer.close()

    server = await asyncio.to_thread(serve, "app", "serve")
    python, socket = sys.executable, tmp_path / "socket"
    script = f"""
set -euo pipefail
app() {{ "{python}" -m app "$@"; }}
{FIRST}
app() {{ "{python}" -S -c '{ASK}' "{socket}" "$@"; }}
{"".join(OTHERS)}"""
    async with await asyncio.start_unix_server(answer, socket):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script.replace("http://localhost:8000", server.url)),
            env=environment,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert '"action":' in output.splitlines()[-1]  # the audit log
