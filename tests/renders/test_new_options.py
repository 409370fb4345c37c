"""An option is one new folder: it renders, the questions list it, and no other file is touched."""

import tomllib
from pathlib import Path

import pytest
from copier.errors import UserMessageError

from extensions import options
from tests import generator


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A template to which somebody added a queue, an auth style and two features."""
    root = generator.copy_of_template(tmp_path / "extended")
    template = root / "template"
    queue = generator.manifest(
        template / "{{queue_toy}}",
        label="Toy",
        dependencies=["toyqueue>=1.2"],
        provides=["worker"],
        processes={"toy-worker": "runs the toys"},
        servers=["app.platform.dev.toys"],
        env=[{"name": "TOY_URL", "comment": "Where the toys are", "example": "https://toys.test"}],
    )
    (queue / "src/app/platform/jobs").mkdir(parents=True)
    (queue / "src/app/platform/jobs/toy.py").write_text('"""Toys."""\n')
    generator.manifest(template / "{{auth_toy}}", label="Toy key")
    for name in ("chat", "files"):
        feature = generator.manifest(
            template / f"{{{{feature_{name}}}}}",
            label=name.title(),
            routers=[f"app.{name}"],
            components=[f"app.{name}"],
            settings=[f"app.platform.settings.{name}.{name.title()}Settings"],
            platform=f"## {name.title()}\n\nSend a message.\n",
            presets=["everything"],
        )
        (feature / f"src/app/{name}").mkdir(parents=True)
        (feature / f"src/app/{name}/__init__.py").write_text(f'"""{name.title()}."""\n')
    return root


def test_a_new_queue_renders(extended: Path, tmp_path: Path) -> None:
    service = generator.render(extended, tmp_path / "service", queue="toy", auth="toy")
    project = tomllib.loads((service / "pyproject.toml").read_text())["project"]
    assert "toyqueue>=1.2" in project["dependencies"]
    assert (service / "src/app/platform/jobs/toy.py").read_text() == '"""Toys."""\n'
    assert "# Where the toys are: https://toys.test\n#TOY_URL=\n" in (
        (service / ".env.example").read_text()
    )
    assert '    "TOY_URL": "https://toys.test",\n' in (service / "tests/required.py").read_text()
    servers = (service / "src/app/platform/dev/servers.py").read_text()
    assert "from app.platform.dev import toys\n" in servers
    assert "    VALKEY,\n    toys.SERVER,\n)" in servers
    assert "toy-worker:" in (service / "compose.yaml").read_text()
    assert not (service / "option.yml").exists()


def test_a_new_option_leaves_other_answers_alone(
    extended: Path, template: Path, tmp_path: Path
) -> None:
    with_it = generator.render(extended, tmp_path / "with")
    without = generator.render(template, tmp_path / "without")
    for path in generator.files(without):
        inside = path.relative_to(without)
        if inside.name != ".copier-answers.yml":
            assert (with_it / inside).read_bytes() == path.read_bytes(), inside


def test_the_questions_list_a_new_option(extended: Path, tmp_path: Path) -> None:
    with pytest.raises(UserMessageError) as caught:
        generator.render(extended, tmp_path / "service", queue="x", auth="x", features=["x"])
    listed = caught.value.message.splitlines()
    assert any("queue:" in line and "toy" in line for line in listed)
    assert any("auth:" in line and "toy" in line for line in listed)
    assert any("features:" in line and "chat" in line and "files" in line for line in listed)


def test_a_folder_within_an_option_is_for_services_that_have_the_fact(
    extended: Path, tmp_path: Path
) -> None:
    chat = extended / "template" / "{{feature_chat}}"
    inner = chat / "{{with_example}}"
    (inner / "src/app/items").mkdir(parents=True)
    (inner / "option.yml").write_text("routers: [app.items.chat]\n")
    (inner / "src/app/items/chat.py").write_text('"""Chat about an item."""\n\nrouter = None\n')
    (chat / "{{with_worker}}/docs").mkdir(parents=True)
    (chat / "{{with_worker}}/docs/chat.md").write_text("Chats are archived by a job.\n")
    # As people delete the example: no line of it holds anything else.
    line = "from app.items import chat as items_chat\n"
    seen = {}
    for features in ([], ["chat"]):
        for example in (False, True):
            for queue in ("none", "toy"):
                to = tmp_path / f"{len(features)}-{example}-{queue}"
                given = {"features": features, "example": example, "queue": queue}
                service = generator.render(extended, to, **given)
                api = (service / "src/app/api.py").read_text()
                routes = line in api
                assert ("items_chat.router,\n" in api) == routes
                assert (service / "src/app/items/chat.py").is_file() == routes
                seen[bool(features), example, queue] = (
                    routes,
                    (service / "docs/chat.md").is_file(),
                )
    assert seen == {
        (chosen, example, queue): (chosen and example, chosen and queue == "toy")
        for chosen, example, queue in seen
    }


def test_features_are_chosen_by_any_number(extended: Path, tmp_path: Path) -> None:
    def routers(name: str, **given: object) -> list[str]:
        service = generator.render(extended, tmp_path / name, **given)
        return [
            feature
            for feature in ("chat", "files")
            if f"    {feature}.router," in (service / "src/app/api.py").read_text()
            and f"    {feature},\n" in (service / "src/app/main.py").read_text()
            and (service / f"src/app/{feature}/__init__.py").exists()
        ]

    assert routers("none") == []
    assert routers("one", features=["files"]) == ["files"]
    assert routers("text", features="[chat]") == ["chat"]
    assert routers("all", preset="everything") == ["chat", "files"]


def test_a_feature_brings_settings_and_a_section_of_the_platform_page(
    extended: Path, tmp_path: Path
) -> None:
    service = generator.render(extended, tmp_path / "service", features=["files", "chat"])
    settings = (service / "src/app/platform/settings/__init__.py").read_text()
    assert "from app.platform.settings.chat import ChatSettings\n" in settings
    bases = settings.partition("class PlatformSettings(\n")[2].partition("):")[0].split(",")
    assert {"ChatSettings", "FilesSettings"} <= {base.strip() for base in bases}
    page = (service / "docs/platform.md").read_text()
    sections = ["\n\n## Chat\n\nSend a message.\n\n## Files\n", "\n\n## For authentication"]
    assert [page.count(section) for section in sections] == [1, 1]


def test_a_broken_option_is_named_before_anything_is_written(
    extended: Path, tmp_path: Path
) -> None:
    (extended / "template" / "{{queue_toy}}" / "option.yml").write_text("label: Toy\nhelp: x\ny: 1")
    with pytest.raises(UserMessageError, match=r"\{\{queue_toy\}\}/option.yml: `y`: unknown key"):
        generator.render(extended, tmp_path / "service")
    assert not (tmp_path / "service").exists()


def test_an_unchosen_folder_is_skipped_and_a_chosen_one_merges(tmp_path: Path) -> None:
    """What Copier does with such names is not documented, and everything here rests on it."""
    root = generator.copy_of_template(tmp_path / "root")
    for option in options.load(root / "template"):
        (root / "template" / option.folder / f"seen-{option.name.replace('/', '.')}").touch()
    service = generator.render(root, tmp_path / "service")
    seen = {path.name.removeprefix("seen-") for path in service.glob("seen-*")}
    proposed = options.defaults(options.load(root / "template"), "standard")
    chosen = options.choose(options.load(root / "template"), proposed)
    assert seen == {option.name.replace("/", ".") for option in chosen}
    assert not [path for path in service.rglob("*") if "{{" in path.name]
