"""Answers of older versions become today's: questions and choices that were renamed or are gone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import generator
from tests.updates import world

Updated = Callable[..., tuple[world.Service, str]]


@pytest.fixture
def updated(tmp_path: Path) -> Updated:
    """Make a service from a template as some change left it; update it to the real one."""

    def update(
        change: Callable[[Path], None], *, then: Callable[[Path], None] | None = None, **given: str
    ) -> tuple[world.Service, str]:
        template = generator.copy_of_template(tmp_path / "template")
        change(template)
        world.publish(template, "1.0.0")
        given = {"preset": "minimal", **given}
        service = world.Service.make(template, tmp_path / "service", version="1.0.0", **given)
        world.empty(template)
        generator.copy_of_template(template)
        if then:
            then(template)
        world.publish(template, "1.1.0")
        return service, service.update().stdout

    return update


def _asks_more(template: Path) -> None:
    text = (template / "copier.yml").read_text()
    (template / "copier.yml").write_text(f"{text}\nnickname:\n  type: str\n  default: none\n")


def test_a_question_that_is_gone_is_forgotten(updated: Updated) -> None:
    service, _ = updated(_asks_more, nickname="shoppy")
    assert service.answers()["_commit"] == "1.1.0"
    assert "nickname" not in service.answers()


def test_a_question_with_a_new_name_keeps_its_answer(updated: Updated) -> None:
    def rename(template: Path) -> None:
        _asks_more(template)
        text = (template / "copier.yml").read_text()
        data = '      - "{{ _copier_conf.data | to_json }}"\n'
        assert data in text
        text = text.replace(data, f"{data}      - nickname=byname\n")
        (template / "copier.yml").write_text(text.replace("\nnickname:", "\nbyname:"))

    service, _ = updated(_asks_more, then=rename, nickname="shoppy")
    assert service.answers()["byname"] == "shoppy"
    assert "nickname" not in service.answers()


def _calls_it_otherwise(template: Path) -> None:
    folder = template / "template"
    (folder / "{{queue_none}}").rename(folder / "{{queue_background}}")


def test_a_choice_with_a_new_name_is_what_was_chosen(updated: Updated) -> None:
    def say_what_it_was(template: Path) -> None:
        manifest = template / "template" / "{{queue_none}}" / "option.yml"
        facts = yaml.safe_load(manifest.read_text())
        manifest.write_text(yaml.safe_dump({**facts, "was": ["background"]}))

    service, _ = updated(_calls_it_otherwise, then=say_what_it_was, queue="background")
    assert service.answers()["queue"] == "none"
    assert service.status() == [" M .copier-answers.yml"]


def test_a_choice_that_is_gone_is_asked_for_and_nothing_is_changed(updated: Updated) -> None:
    service, said = updated(_calls_it_otherwise, queue="background")
    assert "`background` is no longer a choice of `queue`" in said
    assert "celery, " in said
    assert "Traceback" not in said
    assert service.status() == []
    assert service.answers()["queue"] == "background"
    done = service.update(queue="none")
    assert done.returncode == 0, done.stdout
    assert service.answers()["queue"] == "none"


def test_answers_that_would_be_refused_today_are_kept(tmp_path: Path) -> None:
    """The newer version installs a package of the service's name, and has a stricter rule.

    The update renders both versions again, to find what its owner changed in a removed file.
    """
    template = generator.copy_of_template(tmp_path / "template")
    world.publish(template, "1.0.0")
    given = {"project_name": "shop", "description": "sells"}
    service = world.Service.make(
        template, tmp_path / "service", version="1.0.0", preset="minimal", **given
    )
    path = "src/app/platform/base/cpus.py"
    service.write(path, service.read(path) + "# Mine.\n")
    world.commit(service.folder)
    (template / "template" / path).unlink()
    rules = template / "extensions/answers.py"
    stricter = rules.read_text().replace('"" if text.strip() else', '"" if text < "a" else')
    rules.write_text(stricter.replace('{"app", "test"', '{"shop", "app", "test"'))
    world.publish(template, "1.1.0")

    assert "is taken" in service.update(project_name="rich").stdout
    assert service.status() == []
    done = service.update()
    assert done.returncode == 0, done.stdout
    assert service.answers()["_commit"] == "1.1.0"
    assert {name: service.answers()[name] for name in given} == given
    assert "+# Mine." in service.read(f"{path}.rej")
