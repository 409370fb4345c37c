"""A person answers the questions in a terminal."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml

from extensions import answers, options
from tests import generator

ENTER, DOWN, CLEAR_LINE, SPACE = "\r", "\x1b[B", "\x15", " "
CURSOR_SHOWN = r"\x1b\[\?25h"  # the prompt has drawn itself and waits
PATIENCE = 60


class Terminal:
    """``copier copy`` in a pseudo-terminal."""

    def __init__(self, template: Path, service: Path, *arguments: str) -> None:
        command = ["-m", "copier", "copy", "--trust", *arguments, str(template), str(service)]
        self.child = pexpect.spawn(
            sys.executable, command, encoding="utf-8", timeout=PATIENCE, dimensions=(50, 100)
        )

    def sees(self, text: str) -> None:
        self.child.expect_exact(text)

    def answers(self, name: str, keys: str = ENTER) -> None:
        """Wait for the question, then type."""
        self.sees(_first_words(name))
        self.child.expect(CURSOR_SHOWN)
        self.child.send(keys)

    def ends(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus or 0)


def _first_words(name: str) -> str:
    """Return as much of a question's help as its prompt shows in one piece."""
    return str(answers.questions()[name]["help"])[:20]


def asked(template: Path = options.TEMPLATE) -> list[str]:
    """Return the questions that a person is asked, in their order."""
    known = {option.question for option in options.load(template)}
    asked = {options.SEVERAL[name] for name in known & set(options.SEVERAL)}
    return [
        name
        for name, question in answers.questions().items()
        if "when" not in question or name in asked
    ]


@pytest.fixture
def service(tmp_path: Path) -> Path:
    return tmp_path / "service"


@pytest.fixture
def terminal(template: Path, service: Path) -> Iterator[Terminal]:
    terminal = Terminal(template, service)
    yield terminal
    terminal.child.close(force=True)


def kept(service: Path) -> dict[str, object]:
    record: dict[str, object] = yaml.safe_load((service / ".copier-answers.yml").read_text())
    return record


def test_enter_throughout_gives_the_defaults(
    terminal: Terminal, service: Path, template: Path, tmp_path: Path
) -> None:
    for name in asked():
        terminal.answers(name)
    terminal.sees("my-service is ready")
    terminal.sees("uv run app dev")
    terminal.sees("uv run pytest")
    assert terminal.ends() == 0
    assert kept(service) == kept(generator.render(template, tmp_path / "by-default"))


def test_arrows_choose_and_the_preset_moves_the_defaults(terminal: Terminal, service: Path) -> None:
    terminal.answers("preset", DOWN + ENTER)
    for name in asked()[1:]:
        terminal.answers(name, DOWN + ENTER if name == "python" else ENTER)
    assert terminal.ends() == 0
    answered = kept(service)
    assert answered["preset"] == "minimal"
    assert (answered["queue"], answered["auth"], answered["tracing"]) == ("none", "none", "none")
    assert answered["example"] is False
    assert answered["python"] == "3.12"


def test_a_bad_name_is_refused_and_can_be_mended(terminal: Terminal, service: Path) -> None:
    terminal.answers("preset")
    terminal.answers("project_name", CLEAR_LINE + "My Shop" + ENTER)
    terminal.sees("write my-shop: a to z")
    terminal.child.send(CLEAR_LINE + "my-shop" + ENTER)
    for name in asked()[2:]:
        terminal.answers(name)
    terminal.sees("my-shop is ready")
    assert terminal.ends() == 0
    assert kept(service)["project_name"] == "my-shop"


def test_a_bad_address_is_refused_and_can_be_mended(terminal: Terminal, service: Path) -> None:
    for name in asked():
        if name != "email":
            terminal.answers(name)
        else:
            terminal.answers(name, "ada" + ENTER)
            terminal.sees("is not an e-mail address")
            terminal.child.send("@example.com" + ENTER)
    assert terminal.ends() == 0
    assert kept(service)["email"] == "ada@example.com"


def test_what_was_given_is_not_asked(template: Path, service: Path) -> None:
    terminal = Terminal(template, service, "-d", "project_name=my-shop", "-d", "queue=none")
    for name in asked():
        if name not in {"project_name", "queue"}:
            terminal.answers(name)
    terminal.sees("my-shop is ready")
    assert terminal.ends() == 0


def test_every_choice_says_what_it_means(terminal: Terminal) -> None:
    """The lines that a person reads are those of the options' manifests."""
    listed = [option for option in options.load() if option.question == "queue"]
    for name in asked()[: asked().index("queue")]:
        terminal.answers(name)
    for option in listed:
        terminal.sees(f"{option.label}: {option.help}"[:80])


def test_the_space_bar_chooses_features(tmp_path: Path, service: Path) -> None:
    root = generator.copy_of_template(tmp_path / "template")
    toy = "{{feature_tides}}"
    shutil.copytree(generator.ROOT / "tests/toys" / toy, root / "template" / toy)
    offered = options.load(root / "template")
    features = [each.choice for each in offered if each.question == "feature"]
    keys = DOWN * features.index("tides") + SPACE + ENTER
    terminal = Terminal(root, service, "-d", "example=false")
    for name in asked(root / "template"):
        if name != "example":
            terminal.answers(name, keys if name == "features" else ENTER)
    assert terminal.ends() == 0
    assert kept(service)["features"] == ["tides"]
    assert (service / "src/app/tides/router.py").exists()


def test_ctrl_c_writes_nothing(terminal: Terminal, service: Path) -> None:
    terminal.answers("preset")
    terminal.answers("project_name", "\x03")
    terminal.sees("Execution stopped by user")
    assert terminal.ends() == 1
    assert not service.exists()
