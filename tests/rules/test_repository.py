"""What is committed works on any machine: it names no index, no mirror and no one's folders."""

import re
import subprocess

from tests import matrix
from tests.generator import ROOT

ELSEWHERE = re.compile(
    r"\b(?:files\.python" + r"hosted\.org|py" + r"pi\.org/simple|registry\.npm" + r"js\.org|"
    r"(?:deb|security)\.debian" + r"\.org)\b|/ro" + r"ot/\.pyenv|(?<![\w.])/wo" + r"rk/|/Users/\w"
)


def offences(text: str) -> list[str]:
    return [line for line in text.splitlines() if ELSEWHERE.search(line)]


def test_no_index_and_no_folder_of_a_machine_is_named() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if path.is_file():
            assert offences(path.read_text(encoding="utf-8", errors="replace")) == [], name


def test_such_a_line_is_found() -> None:
    index = "https://py" + "pi.org/simple"
    assert offences(f"a\nurl = '{index}'\nb") == [f"url = '{index}'"]
    assert offences("cd /wo" + "rk/x") != []
    assert offences("see /workspace/x and ./work/y") == []


def test_the_readme_names_every_answer() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {question: set(re.findall(r"`(\w+)`", text)) for question, text in rows}
    offered = matrix.choices()
    there = {name: set(each) for name, each in offered.items() if isinstance(each[0], str)}
    if features := {
        name.removeprefix(matrix.FEATURE) for name in offered if matrix.FEATURE in name
    }:
        there["features"] = features
    assert {name: named.get(name) for name in there if name != "python"} == {
        name: each for name, each in there.items() if name != "python"
    }
