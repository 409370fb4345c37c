"""The validation of answers, at the prompt and from ``--data``.

A prompt calls ``refusal`` before it accepts an answer. Answers from ``--data`` or ``--data-file``
are validated together before the first question, so that one message names every mistake, and
nothing is written.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import yaml
from copier.errors import UserMessageError
from copier_template_extensions import ContextHook

ROOT = Path(__file__).parent.parent
PACKAGES = Path(__file__).with_name("packages.txt")  # which services install, at any depth
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST_NAME = 50  # Kubernetes allows 63 for a label, and deployments append to it
LONGEST_LINE = 200
# Namespaces that clusters have: a rule that denies all traffic to one would be an outage of others.
NAMESPACES = re.compile(r"default|gateway|monitoring|kube-.*")
UPDATING = "copier._main."  # how Copier calls the folders into which an update renders
EMAIL = re.compile(r"[^@\s<>\"',;:\\()\[\]]+@[^@\s<>\"',;:\\()\[\]]+\.[^@\s.<>\"',;:\\()\[\]]+")
BOOLEANS = {"yes", "no", "y", "n", "true", "false", "t", "f", "on", "off", "1", "0"}
# Unicode categories of invisible characters and line breaks; and marks of text direction.
UNSEEN = {"Cc", "Cs", "Cn", "Zl", "Zp"}
TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@cache
def questions() -> dict[str, dict[str, Any]]:
    """The questions of ``copier.yml``."""
    text = (ROOT / "copier.yml").read_text(encoding="utf-8")
    return {key: value for key, value in yaml.safe_load(text).items() if not key.startswith("_")}


@cache
def taken() -> frozenset[str]:
    """Names of a module of Python or of the service, or of a package that services install."""
    manifests = [ROOT / "template" / "pyproject.toml.jinja"]
    manifests += (ROOT / "template").glob("{{*}}/**/option.yml")
    required = {
        re.sub(r"[-_.]+", "-", name.lower())
        for manifest in manifests
        for name in re.findall(r"[\"' ]([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=", manifest.read_text())
    }
    required |= set(PACKAGES.read_text(encoding="utf-8").split())
    return frozenset(required | sys.stdlib_module_names | {"app", "test", "tests"})


def refusal(
    question: str,
    answer: object,
    choices: list[str] | None = None,
    kept: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """The reason, in one sentence, why ``answer`` is not valid; empty if it is.

    ``kept``: the answers of the service that is updated, which were valid when it was copied.
    """
    if question in kept and kept[question] == answer:
        return ""
    if question not in questions():
        return f"`{question}` is not a question; the questions are {_listed(questions(), 'and')}."
    kind = questions()[question]["type"]
    if choices is not None:
        several = questions()[question].get("multiselect", False)
        if several and isinstance(answer, str):
            with suppress(yaml.YAMLError, ValueError):  # such as a date that does not exist
                answer = yaml.safe_load(answer)
        given = answer if several and isinstance(answer, list) else [answer]
        wrong = [repr(each) for each in given if str(each) not in choices]
        if wrong and not choices:
            return f"{_listed(wrong)} is not a choice; there are none yet."
        return f"{_listed(wrong)} is not a choice; choose {_listed(choices)}." if wrong else ""
    if kind == "bool":
        known = isinstance(answer, bool) or str(answer).lower() in BOOLEANS
        return "" if known else f"{answer!r} is not a yes or no."
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return f"{answer!r} is not text; put it in quotes."
    return _unwritable(str(answer)) or RULES.get(question, _anything)(str(answer))


def _listed(names: Iterable[object], word: str = "or") -> str:
    *most, last = map(str, names)
    return f"{', '.join(most)} {word} {last}" if most else last


def _unwritable(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in UNSEEN or character in TURNING:
            return f"contains the invisible character U+{ord(character):04X}; remove it."
    if len(text) > LONGEST_LINE:
        return f"has {len(text)} characters; the maximum is {LONGEST_LINE}."
    return ""


def _anything(_: str) -> str:
    return ""


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        advice = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")
        like = advice if NAME.fullmatch(advice) else "one like my-service"
        return (
            f"{text!r} is not valid; write {like}: a to z, digits, single hyphens, a letter first."
        )
    if len(text) > LONGEST_NAME:
        return f"has {len(text)} characters; the maximum is {LONGEST_NAME}."
    if text in taken() or text.replace("-", "_") in taken():
        return (
            f"{text!r} is taken: the service installs a package or imports a module of that name."
        )
    if NAMESPACES.fullmatch(text):
        return f"{text!r} is a namespace of Kubernetes clusters themselves; choose another name."
    if yaml.safe_load(text) != text:
        return f"{text!r} is a reserved word in YAML; choose another name."
    return ""


def _description(text: str) -> str:
    return "" if text.strip() else "is empty; describe the service in one line."


def _author(text: str) -> str:
    return "remove the comma; package metadata does not allow one in a name." if "," in text else ""


def _email(text: str) -> str:
    if not text or (EMAIL.fullmatch(text) and ".." not in text and text.isascii()):
        return ""
    return f"{text!r} is not an e-mail address; write one like ada@example.com."


RULES = {
    "project_name": _name,
    "description": _description,
    "author": _author,
    "email": _email,
}


class Answers(ContextHook):
    """Adds ``refusal`` for the validators, and validates the answers given by ``--data``.

    It runs after ``Options``, and reads its ``choices``.
    """

    def hook(self, context: dict[str, Any]) -> None:
        if context["_copier_phase"] in ("undefined", "prompt"):
            conf = context["_copier_conf"]
            kept = _kept(conf["dst_path"], conf["answers_file"], conf["data"])
            context["refusal"] = partial(refusal, kept=kept)
            check(conf["data"], context["choices"], kept)


def _kept(folder: PurePath, answers_file: PurePath, given: dict[str, Any]) -> dict[str, Any]:
    """The answers that the service in ``folder`` has.

    Copier would take the default instead of one that is refused today, without a word. An update
    also renders into other folders, with all ``given``.
    """
    if any(part.startswith(UPDATING) for part in folder.parts):
        return given
    file = Path(folder, answers_file)
    return (file.is_file() and yaml.safe_load(file.read_text(encoding="utf-8"))) or {}


def check(
    given: dict[str, Any],
    choices: dict[str, str],
    kept: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Raise ``UserMessageError`` if given answers are not valid, but for those ``kept``."""
    always = {name for name, question in questions().items() if "when" not in question}
    complete = always <= set(given)  # what Copier hands on in an update, old questions and all
    wrong = {
        name: reason
        for name, answer in sorted(given.items())
        if not name.startswith("_")
        and not (complete and name not in questions())
        and (reason := refusal(name, answer, _allowed(name, choices), kept))
    }
    if wrong:
        lines = (f"  {name}: {reason}" for name, reason in wrong.items())
        raise UserMessageError("\n".join(["These answers are not valid:", *lines]))


def _allowed(question: str, choices: dict[str, str]) -> list[str] | None:
    listed = questions().get(question, {}).get("choices")
    if listed is None:
        return None
    found = json.loads(choices[question]) if isinstance(listed, str) else listed
    return [str(each) for each in (found.values() if isinstance(found, dict) else found)]
