"""Makes the pictures of the README from the real thing: `make pictures`.

A pseudo-terminal answers the prompts of `copier copy` with Enter, then runs the service that came
out and calls it. What the terminal shows is drawn as SVG: no browser, no fonts from elsewhere.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

import pexpect
import pyte

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
COLUMNS, ROWS = 100, 2000  # rows enough for all that is shown
PROMPTS, SERVICE = HERE / "prompts.svg", HERE / "service.svg"
WAIT = 180  # seconds for the slowest step: the first `uv sync` of a machine

CHARACTER, LINE, MARGIN, BAR = 8.4, 19, 16, 30
INK = {
    "default": "#d8dee9", "black": "#4c566a", "red": "#ff7b8a", "green": "#a3d98b",
    "brown": "#ebcb8b", "yellow": "#ebcb8b", "blue": "#81a1f1", "magenta": "#c79be0",
    "cyan": "#7fd1de", "white": "#ffffff",
}  # fmt: skip


class Terminal:
    """A pseudo-terminal whose screen can be read and drawn."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.process = pexpect.spawn(
            command[0], command[1:], cwd=str(cwd), env=env, dimensions=(ROWS, COLUMNS), timeout=WAIT
        )

    def read_until(self, pattern: bytes) -> bool:
        """Read until ``pattern`` was shown and it is quiet; ``False`` if the command ended."""
        seen = b""
        while True:
            try:
                part = self.process.read_nonblocking(65536, 0.4 if pattern in seen else WAIT)
            except pexpect.EOF:
                return False
            except pexpect.TIMEOUT:
                if pattern not in seen:
                    raise
                return True
            seen += part
            self.stream.feed(part)

    def rows(self) -> list[list[pyte.screens.Char]]:
        rows = [[self.screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS)]
        while rows and not "".join(c.data for c in rows[-1]).strip():
            rows.pop()
        return rows


def draw(rows: list[list[pyte.screens.Char]], title: str, to: Path) -> None:
    """Write the screen as an SVG file."""
    width = COLUMNS * CHARACTER + 2 * MARGIN
    height = len(rows) * LINE + 2 * MARGIN + BAR
    lines = [
        f'<text x="{MARGIN}" y="{BAR + MARGIN + LINE * (y + 0.7):.1f}">{_runs(row)}</text>'
        for y, row in enumerate(rows)
    ]
    dots = "".join(
        f'<circle cx="{MARGIN + 4 + 18 * i}" cy="{BAR / 2 + 2}" r="5.5" fill="{colour}"/>'
        for i, colour in enumerate(("#ff7b8a", "#ebcb8b", "#a3d98b"))
    )
    to.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="100%" height="100%" rx="10" fill="#20242e"/>{dots}\n'
        f'<text x="{width / 2:.0f}" y="{BAR / 2 + 7}" text-anchor="middle" fill="#8b93a5" '
        f'font-size="12">{escape(title)}</text>\n'
        f'<g xml:space="preserve">\n' + "\n".join(lines) + "\n</g>\n</svg>\n",
        encoding="utf-8",
    )


def _runs(row: list[pyte.screens.Char]) -> str:
    """Return the row as spans of one colour each; each starts where its column is."""
    out: list[str] = []
    start = 0
    text = "".join(c.data for c in row).rstrip()
    for x in range(1, len(text) + 1):
        if x == len(text) or _style(row[x]) != _style(row[start]):
            if content := "".join(c.data for c in row[start:x]).rstrip():
                at = MARGIN + start * CHARACTER
                long = len(content) * CHARACTER
                out.append(
                    f'<tspan x="{at:.1f}" textLength="{long:.1f}" {_style(row[start])}>'
                    f"{escape(content)}</tspan>"
                )
            start = x
    return "".join(out)


def _style(char: pyte.screens.Char) -> str:
    colour = INK.get(char.fg.removeprefix("bright"), f"#{char.fg}")
    return f'fill="{colour}"' + (' font-weight="bold"' if char.bold else "")


def prompts(folder: Path, env: dict[str, str]) -> None:
    template = folder / "slipway"  # without git: what is not committed is shown as well
    for name in ("extensions", "template"):
        shutil.copytree(ROOT / name, template / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "copier.yml", template)
    command = [sys.executable, "-m", "copier", "copy", "--trust", str(template), "my-service"]
    terminal = Terminal(command, folder, env)
    terminal.stream.feed(b"$ copier copy --trust <this template> my-service\r\n")
    while terminal.read_until(b"\x1b[?25h"):  # the cursor is shown: it waits for an answer
        terminal.process.send("\r")
    rows = terminal.rows()
    # Leave out the list of the files that were written: it is long.
    written = re.compile(r" *(create|identical|Copying) ")
    listed = [y for y, row in enumerate(rows) if written.match(_text(row))]
    draw(rows[: listed[0]] + rows[listed[-1] + 1 :], "the questions", PROMPTS)


def _text(row: list[pyte.screens.Char]) -> str:
    return "".join(c.data for c in row)


def service(folder: Path, env: dict[str, str]) -> None:
    terminal = Terminal(["uv", "run", "app", "dev", "--port", "8123"], folder / "my-service", env)
    terminal.stream.feed(b"$ uv run app dev --port 8123\r\n")
    terminal.read_until(b"Ctrl-C stops everything")
    call = ["curl", "-s", "http://127.0.0.1:8123/health/ready"]
    answer = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    terminal.process.sendintr()  # Ctrl-C
    terminal.process.expect(pexpect.EOF)
    answer = re.sub(r'("checks"|"redis"|"postgres")', r"\n    \1", answer)
    shown = f"\n$ {' '.join(call)}\n{answer}\n".replace("\n", "\r\n")
    terminal.stream.feed(shown.encode())
    draw(terminal.rows(), "the service", SERVICE)


def main() -> None:
    keep = ("PATH", "HOME", "LANG", "UV_", "PIP_", "SSL_", "XDG_")
    env = {name: value for name, value in os.environ.items() if name.startswith(keep)}
    env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        prompts(Path(temporary), env)
        subprocess.run(["uv", "sync", "-q"], cwd=Path(temporary) / "my-service", check=True)
        service(Path(temporary), env)
    print(f"prompts.svg and service.svg made in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
