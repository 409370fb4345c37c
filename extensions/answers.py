"""The answers: which ones are refused, and why.

A prompt asks ``refusal`` before it accepts what was typed. What came by ``--data`` or
``--data-file`` is checked before the first question, all of it at once, so that whoever is wrong
gets one message that names every mistake, and nothing is written.
"""

import re
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from copier.errors import UserMessageError
from copier_template_extensions import ContextHook

ROOT = Path(__file__).parent.parent
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST_NAME = 50  # Kubernetes allows 63 for a label, and deployments append to it
LONGEST_LINE = 200
EMAIL = re.compile(r"[^@\s<>\"',;:\\()\[\]]+@[^@\s<>\"',;:\\()\[\]]+\.[^@\s.<>\"',;:\\()\[\]]+")
BOOLEANS = {"yes", "no", "y", "n", "true", "false", "t", "f", "on", "off", "1", "0"}
# Characters that can't be seen, break a line, or turn its direction, by Unicode category.
UNSEEN = {"Cc", "Cs", "Cn", "Zl", "Zp"}
TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@cache
def questions() -> dict[str, dict[str, Any]]:
    """Return the questions of ``copier.yml``."""
    text = (ROOT / "copier.yml").read_text(encoding="utf-8")
    return {key: value for key, value in yaml.safe_load(text).items() if not key.startswith("_")}


@cache
def taken() -> frozenset[str]:
    """Return the names that would hide a module of Python, a dependency or the service's own."""
    manifests = [ROOT / "template" / "pyproject.toml.jinja"]
    manifests += (ROOT / "template").glob("{{*}}/option.yml")
    required = {
        re.sub(r"[-_.]+", "-", name.lower())
        for manifest in manifests
        for name in re.findall(r"[\"' ]([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=", manifest.read_text())
    }
    return frozenset(required | sys.stdlib_module_names | {"app", "test", "tests"})


def refusal(question: str, answer: object, choices: list[str] | None = None) -> str:
    """Return why ``answer`` is no answer to ``question``, in one sentence; nothing when it is."""
    if question not in questions():
        return f"there is no question `{question}`; there are {_listed(questions())}."
    kind = questions()[question]["type"]
    if choices is not None:
        several = questions()[question].get("multiselect", False)
        answer = yaml.safe_load(answer) if several and isinstance(answer, str) else answer
        given = answer if several and isinstance(answer, list) else [answer]
        wrong = [repr(each) for each in given if str(each) not in choices]
        return f"{_listed(wrong)} is no choice; it would be {_listed(choices)}." if wrong else ""
    if kind == "bool":
        known = isinstance(answer, bool) or str(answer).lower() in BOOLEANS
        return "" if known else f"{answer!r} is neither yes nor no."
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return f"{answer!r} is no text; put it in quotes."
    return _unwritable(str(answer)) or RULES.get(question, _anything)(str(answer))


def _listed(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else str(last)


def _unwritable(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in UNSEEN or character in TURNING:
            return f"holds U+{ord(character):04X}, which can't be seen; take it out."
    if len(text) > LONGEST_LINE:
        return f"has {len(text)} characters; it would have at most {LONGEST_LINE}."
    return ""


def _anything(_: str) -> str:
    return ""


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        advice = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")
        like = advice if NAME.fullmatch(advice) else "like my-service"
        return f"would be {like}: a to z, digits, single hyphens, a letter first; not {text!r}."
    if len(text) > LONGEST_NAME:
        return f"has {len(text)} characters; a name has at most {LONGEST_NAME}."
    if text in taken() or text.replace("-", "_") in taken():
        return f"{text!r} is taken: the service or a test imports something of that name."
    if yaml.safe_load(text) != text:
        return f"{text!r} is a value in YAML; choose another name."
    return ""


def _description(text: str) -> str:
    return "" if text.strip() else "is empty; say in one line what the service does."


def _author(text: str) -> str:
    return "leave out the comma; package metadata allows none in a name." if "," in text else ""


def _email(text: str) -> str:
    if not text or (EMAIL.fullmatch(text) and ".." not in text and text.isascii()):
        return ""
    return f"would look like ada@example.com; not {text!r}."


RULES = {
    "project_name": _name,
    "description": _description,
    "author": _author,
    "email": _email,
}


class Answers(ContextHook):
    """Adds ``refusal`` for the validators, and refuses what was given by ``--data``.

    It runs after ``Options``, whose ``choices`` it reads.
    """

    def hook(self, context: dict[str, Any]) -> None:
        context["refusal"] = refusal
        if context["_copier_phase"] in ("undefined", "prompt"):
            check(context["_copier_conf"]["data"], context["choices"])


def check(given: dict[str, Any], choices: dict[str, str]) -> None:
    """Raise ``UserMessageError`` when something is wrong with the answers that were given."""
    always = {name for name, question in questions().items() if "when" not in question}
    complete = always <= set(given)  # what Copier hands on in an update, old questions and all
    wrong = {
        name: reason
        for name, answer in sorted(given.items())
        if not name.startswith("_")
        and not (complete and name not in questions())
        and (reason := refusal(name, answer, _allowed(name, choices)))
    }
    if wrong:
        lines = (f"  {name}: {reason}" for name, reason in wrong.items())
        raise UserMessageError("\n".join(["These answers can't be used:", *lines]))


def _allowed(question: str, choices: dict[str, str]) -> list[str] | None:
    listed = questions().get(question, {}).get("choices")
    if listed is None:
        return None
    found = yaml.safe_load(choices[question]) if isinstance(listed, str) else listed
    return [str(each) for each in (found.values() if isinstance(found, dict) else found)]
