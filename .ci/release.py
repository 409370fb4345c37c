"""Make a version: `make release VERSION=0.2.0`. The tests have run by then.

Dates the section "Unreleased" of CHANGELOG.md, commits that, and tags it with the section as notes.
Nothing is pushed; the last line says how.
"""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

CHANGELOG = Path("CHANGELOG.md")
UNRELEASED = "## Unreleased\n"
ADVICE = "### When you update\n"
NOTHING = f"{UNRELEASED}\nNothing yet.\n\n"


def main(version: str) -> None:
    notes = _notes(CHANGELOG.read_text(encoding="utf-8"))
    _refuse(version, notes)
    today = datetime.now(UTC).date()
    text = CHANGELOG.read_text(encoding="utf-8")
    dated = text.replace(UNRELEASED, f"{NOTHING}## {version} ({today})\n", 1)
    CHANGELOG.write_text(dated, encoding="utf-8")
    _git("commit", "--quiet", "--message", f"Release {version}", "--", str(CHANGELOG))
    _git("tag", "--annotate", "--cleanup=verbatim", "--message", f"{version}\n\n{notes}", version)
    sys.stdout.write(f"{version} is tagged. Publish it: git push --atomic origin main {version}\n")


def _notes(changelog: str) -> str:
    """Return the section of what is not released yet."""
    _, _, rest = changelog.partition(UNRELEASED)
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip() + "\n"


def _refuse(version: str, notes: str) -> None:
    """Stop with the reason when this can't become a version."""
    tags = _git("tag", "--list", "[0-9]*").split()
    latest = max(map(_numbers, tags), default=(0, 0, 0))
    reasons = {
        "a version is written like 1.2.3": not re.fullmatch(r"\d+\.\d+\.\d+", version),
        f"it has to come after {'.'.join(map(str, latest))}": _numbers(version) <= latest,
        "there are changes that are not committed": bool(_git("status", "--porcelain")),
        "versions are made on main": _git("branch", "--show-current").strip() != "main",
        f"CHANGELOG.md has nothing under `{UNRELEASED.strip()}`": "\n- " not in f"\n{notes}",
        f"CHANGELOG.md does not say what updaters do, under `{ADVICE.strip()}`": ADVICE
        not in notes,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        sys.exit(f"{version or 'Nothing'} can't be released: {'; '.join(wrong)}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
