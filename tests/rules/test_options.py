"""An option's folder that can't be used is refused, and the message says what would be right."""

from pathlib import Path
from typing import Any

import pytest

from extensions.options import Option, OptionError, choose, defaults, load
from tests.generator import manifest


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template with two choices of one question, and nothing else."""
    manifest(tmp_path / "{{queue_fast}}", label="Fast", help="costs memory", order=10)
    manifest(tmp_path / "{{queue_none}}", label="None", help="costs nothing", presets=["minimal"])
    return tmp_path


def own(folder: Path, path: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).touch()


def refused(template: Path) -> str:
    with pytest.raises(OptionError) as caught:
        load(template)
    return str(caught.value)


def test_options_come_in_their_order(template: Path) -> None:
    assert [option.choice for option in load(template)] == ["fast", "none"]


@pytest.mark.parametrize("name", ["{{queue}}", "{{Queue_Fast}}", "{{queue-fast}}", "{{ queue_x }}"])
def test_a_name_that_is_none(template: Path, name: str) -> None:
    manifest(template / name)
    assert refused(template).startswith(f"{name}: not the name of an option folder")


def test_a_folder_without_a_manifest(template: Path) -> None:
    (template / "{{queue_bare}}").mkdir()
    assert "has no option.yml" in refused(template)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label: [", "is not valid YAML"),
        ("- label", "write it as `key: value` lines"),
        ("", "write it as `key: value` lines"),
        ("label: Toy", "`help`: Field required"),
    ],
)
def test_a_manifest_that_cannot_be_read(template: Path, text: str, said: str) -> None:
    manifest(template / "{{queue_toy}}").joinpath("option.yml").write_text(text)
    assert refused(template).startswith("{{queue_toy}}/option.yml")
    load.cache_clear()
    assert said in refused(template)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dependency", ["x>=1"], "`dependency`: unknown key; the keys are "),
        ("question", "auth", "`question`: unknown key"),
        (
            "label",
            "two\nlines",
            "`label`: 'two\\nlines' is not valid; write it like `one line of text`",
        ),
        ("label", ["a"], "`label`: Input should be a valid string"),
        ("order", "first", "`order`: Input should be a valid integer"),
        ("presets", ["huge"], "`presets.0`: Input should be 'minimal', 'standard' or 'everything'"),
        ("dependencies", ["celery"], "'celery' is not valid; write it like `celery[redis]>=5.7`"),
        ("dependencies", ["celery<6"], "'celery<6' is not valid; write it like"),
        ("dependencies", ["celery >= 5"], "'celery >= 5' is not valid; write it like"),
        ("dev_dependencies", ["mypy==2"], "'mypy==2' is not valid; write it like"),
        ("dependencies", "celery>=5.7", "`dependencies`: Input should be a valid tuple"),
        ("components", ["src/app/x.py"], "'src/app/x.py' is not valid; write it like `app.items`"),
        ("routers", ["app.My-Items"], "'app.My-Items' is not valid; write it like `app.items`"),
        (
            "env",
            [{"name": "lower", "comment": "c"}],
            "`env.0.name`: 'lower' is not valid; write it like",
        ),
        ("env", [{"name": "A", "comment": "c", "x": 1}], "`env.0.x`: Extra inputs"),
        ("processes", {"the worker": "runs"}, "'the worker' is not valid; write it like `worker`"),
        ("provides", ["A Worker"], "'A Worker' is not valid; write it like `worker`"),
    ],
)
def test_a_field_that_cannot_be_used(template: Path, field: str, value: Any, said: str) -> None:
    manifest(template / "{{queue_toy}}", **{field: value})
    assert said in refused(template)


@pytest.mark.parametrize("requirement", ["x>=1", "x[a,b]>=1.2,<2", "x-y>=1 ; os_name == 'nt'"])
def test_requirements_with_a_lower_bound_are_fine(template: Path, requirement: str) -> None:
    manifest(template / "{{queue_toy}}", dependencies=[requirement])
    assert any(option.dependencies == (requirement,) for option in load(template))


def test_an_option_may_not_own_a_path_of_the_core(template: Path) -> None:
    own(template, "src/app/platform/data/database.py")
    own(template / "{{queue_fast}}", "src/app/platform/data/database.py")
    assert refused(template) == "queue_fast: src/app/platform/data/database.py belongs to the core."


def test_a_suffix_does_not_hide_the_owner(template: Path) -> None:
    own(template, "README.md.jinja")
    own(template / "{{queue_fast}}", "README.md")
    assert "README.md belongs to the core" in refused(template)


def test_two_choices_of_one_question_may_own_one_path(template: Path) -> None:
    for name in ("{{queue_fast}}", "{{queue_none}}"):
        own(template / name, "src/app/platform/jobs/transport.py")
    assert len(load(template)) == 2


def test_options_of_two_questions_may_not_own_one_path(template: Path) -> None:
    for name in ("{{queue_fast}}", "{{auth_key}}"):
        own(manifest(template / name), "src/app/same.py")
    assert refused(template).startswith("auth_key and queue_fast both own src/app/same.py;")


def test_two_features_may_not_own_one_path(template: Path) -> None:
    for name in ("{{feature_a}}", "{{feature_b}}"):
        own(manifest(template / name), "src/app/same.py")
    assert "feature_a and feature_b both own src/app/same.py" in refused(template)


def test_what_several_options_share_may_own_what_the_others_own(template: Path) -> None:
    manifest(template / "{{queue_fast}}", provides=["worker"])
    own(manifest(template / "{{with_worker}}"), "src/app/store.py")
    own(template / "{{queue_none}}", "src/app/store.py")
    assert len(load(template)) == 3


def test_what_an_option_provides_may_not_own_its_paths(template: Path) -> None:
    own(manifest(template / "{{queue_fast}}", provides=["worker"]), "src/app/store.py")
    own(manifest(template / "{{with_worker}}"), "src/app/store.py")
    assert "queue_fast and with_worker both own src/app/store.py" in refused(template)


def test_two_defaults_of_one_preset(template: Path) -> None:
    manifest(template / "{{queue_toy}}", presets=["minimal"])
    assert "both the default of the preset minimal" in refused(template)


def test_a_preset_proposes_what_lists_it_or_else_the_first(template: Path) -> None:
    manifest(template / "{{feature_a}}", presets=["standard", "everything"])
    manifest(template / "{{feature_b}}", presets=["everything"])
    manifest(template / "{{with_example}}", presets=["standard"])
    known = load(template)
    assert defaults(known, "minimal") == {"features": [], "queue": "none", "example": False}
    assert defaults(known, "standard") == {"features": ["a"], "queue": "fast", "example": True}
    assert defaults(known, "everything")["features"] == ["a", "b"]


def test_chosen_options_bring_what_they_provide(template: Path) -> None:
    manifest(template / "{{queue_fast}}", provides=["worker"], order=10)
    manifest(template / "{{with_worker}}", order=5)
    manifest(template / "{{with_example}}", order=90)
    known = load(template)

    def names(**answers: Any) -> list[str]:
        return [option.variable for option in choose(known, answers)]

    assert names(queue="fast", example=True) == ["with_worker", "queue_fast", "with_example"]
    assert names(queue="none", example=False) == ["queue_none"]


def test_several_answers_choose_several_options() -> None:
    a, b = (Option(question="feature", choice=c, label=c, help=c) for c in "ab")
    assert choose((a, b), {"features": ["b"]}) == [b]
    assert choose((a, b), {"features": []}) == []


def test_a_folder_within_an_option_is_chosen_with_both(template: Path) -> None:
    manifest(template / "{{queue_fast}}", label="Fast", provides=["worker"], order=10)
    manifest(template / "{{with_worker}}", order=5)
    manifest(template / "{{feature_a}}", order=20)
    own(template / "{{feature_a}}" / "{{with_worker}}", "src/app/a_jobs.py")
    known = load(template)

    def names(**answers: Any) -> list[str]:
        return [option.name for option in choose(known, answers)]

    both = ["with_worker", "queue_fast", "feature_a", "feature_a/with_worker"]
    assert names(queue="fast", features=["a"]) == both
    assert names(queue="fast", features=[]) == both[:2]
    assert names(queue="none", features=["a"]) == ["feature_a", "queue_none"]


def test_a_folder_within_two_folders_is_chosen_with_all_of_them(template: Path) -> None:
    manifest(template / "{{queue_fast}}", label="Fast", provides=["worker"], order=10)
    manifest(template / "{{with_worker}}", order=5)
    manifest(template / "{{with_example}}", order=90)
    manifest(template / "{{feature_a}}", order=20)
    inner = "{{feature_a}}/{{with_worker}}/{{with_example}}"
    own(template / inner, "src/app/items/a.py")
    known = load(template)

    def is_chosen(**answers: Any) -> bool:
        return inner in [option.folder for option in choose(known, answers)]

    assert is_chosen(queue="fast", example=True, features=["a"])
    assert not is_chosen(queue="none", example=True, features=["a"])
    assert not is_chosen(queue="fast", example=False, features=["a"])
    assert not is_chosen(queue="fast", example=True, features=[])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("{{with_worker}}/src/{{with_worker}}", "within an option, only {{with_fact}}"),
        ("{{with_tides}}", "feature_a/with_tides: no folder {{with_tides}} defines the fact"),
        ("{{queue_fast}}", "within an option, only {{with_fact}}"),
        ("src/{{with_worker}}", "within an option, only {{with_fact}}"),
    ],
)
def test_a_folder_within_an_option_is_of_a_fact(template: Path, folder: str, message: str) -> None:
    manifest(template / "{{with_worker}}")
    manifest(template / "{{feature_a}}")
    own(template / "{{feature_a}}" / folder, "src/app/a_jobs.py")
    assert message in refused(template)


def test_a_folder_within_an_option_has_its_paths_for_itself(template: Path) -> None:
    manifest(template / "{{with_worker}}")
    manifest(template / "{{feature_a}}")
    manifest(template / "{{feature_b}}")
    own(template / "{{feature_a}}" / "{{with_worker}}", "src/app/jobs.py")
    own(template / "{{feature_b}}", "src/app/jobs.py")
    assert "feature_b and feature_a/with_worker both own src/app/jobs.py" in refused(template)


def test_a_folder_within_an_option_has_no_question_of_its_own(template: Path) -> None:
    manifest(template / "{{with_worker}}")
    manifest(template / "{{feature_a}}")
    inner = template / "{{feature_a}}" / "{{with_worker}}"
    own(inner, "src/app/jobs.py")
    (inner / "option.yml").write_text("label: Jobs\n")
    assert "{{feature_a}}/{{with_worker}}/option.yml: `label`: unknown key" in refused(template)
