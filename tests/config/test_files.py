from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from search.config.files import load, overridden, parse
from search.errors import ConfigError
from search.targets import read_architecture
from tests.conftest import STUDIES

MINIMAL = '[study]\nname = "s"\n'


def _file(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_study_file_of_the_project_loads_and_comes_back(path: Path) -> None:
    config = load(path)
    assert parse(tomllib.loads(config.to_toml()), "again") == config


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = _file(tmp_path, MINIMAL)
    config = load(
        path, ["study.trials=7", "data.kind=digits", "space.head=[0, 8]", "study.target = 0.5"]
    )
    assert config.study.trials == 7
    assert config.data.kind == "digits"
    assert "head" in config.parameters
    assert config.study.target == 0.5
    assert overridden(config, ["study.trials=9"]).study.trials == 9


def test_limits_not_named_are_those_of_the_assignment(tmp_path: Path) -> None:
    config = load(_file(tmp_path, MINIMAL + "[limits]\nparameters = 50_000\n"))
    assert config.limits["parameters"] == 50_000
    assert config.limits["receptive_field"] == 44


@pytest.mark.parametrize(
    ("key", "blocks"), [("width", "C1 C2 C3 C4"), ("transition.dilation", "C1 C2 C3")]
)
def test_a_choice_that_all_blocks_overrule_is_refused(
    key: str, blocks: str, tmp_path: Path
) -> None:
    own = [f"space.{block}.{key}" for block in blocks.split()]
    most = _file(tmp_path, MINIMAL + "[space]\n" + "".join(f"{k[6:]} = 2\n" for k in own[1:]))
    every = f"space.block.{key}=1"
    assert load(most, [every]).space.settings[f"C1.{key}"] == 1
    with pytest.raises(ConfigError) as error:
        load(most, [f"{own[0]}=2", every])
    reason = f"changes nothing, since each block says its own: {', '.join(own)}"
    assert str(error.value) == f"--set space.block.{key}: {reason}"


def test_blocks_that_are_no_table_are_told_as_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block must be a table"):
        load(_file(tmp_path, MINIMAL), ["space.block=3"])


def test_a_transition_of_c4_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"C4\.transition\.halvings: changes nothing"):
        load(_file(tmp_path, MINIMAL), ["space.C4.transition.halvings=2"])


@pytest.mark.parametrize(
    "override", ["study.trials", "=3", "study.trials.x=3", "study.trials=3\nseed = 4"]
)
def test_overrides_must_read_key_equals_value(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(_file(tmp_path, MINIMAL + "trials = 3"), [override])


@pytest.mark.parametrize(
    ("override", "must"),
    [
        ("study.track=tensorboard", "must be a list (got 'tensorboard')"),
        ("study.objectives=[]", "must not be empty (got [])"),
        ("study.storage=''", "must not be empty"),
        ("study.target=high", "must be a number (got 'high')"),
        ("study.target=true", "must be a number (got True)"),
        ("study.hours=true", "must be a number (got True)"),
        ("study.minutes='3'", "must be a number (got '3')"),
        ("study.target=2", "must be less than or equal to 1 (got 2)"),
        ("study.seed=1.5", "must be a whole number (got 1.5)"),
        ("study.metric=f1", "must be 'accuracy' or 'balanced_accuracy' (got 'f1')"),
        ("data.root=3", "must be a path, in quotes (got 3)"),
        ("data.root=~nobody-of-that-name/x", "there is no home directory ~nobody-of-that-name"),
        ("study.name=123", "must be text, in quotes (got 123)"),
        ("training.epochs=[]", "a list of choices must not be empty (got [])"),
        ("data.channels=2", "must be 1 or 3 (got 2)"),
        ("data.image_size=x", "must be a whole number (got 'x')"),
        ("space.fill=3", "must be a table (got 3)"),
        ("augmentation.extra=3", "must be a list (got 3)"),
        ("augmentation.flip_probability=nan", "must be a finite number (got nan)"),
        (f"study.name={'a' * 101}", "must have at most 100 characters"),
    ],
)
def test_what_a_value_must_be_is_said_in_one_way(override: str, must: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, MINIMAL), [override])
    said = str(caught.value)
    assert f"{override.partition('=')[0]}: {must}" in said
    assert "should" not in said


@pytest.mark.parametrize("word", ["0", "off", '"off"'])
def test_a_rule_that_is_switched_off_stays_off(tmp_path: Path, word: str) -> None:
    config = load(_file(tmp_path, MINIMAL), [f"limits.dilated={word}"])
    assert "dilated" not in config.rules.to_mapping()
    assert config.rules.to_mapping()["depthwise_separable"] == 1, "the others hold as ever"
    for again in (tomllib.loads(config.to_toml()), config.model_dump(mode="json", by_alias=True)):
        assert parse(again, "here") == config
    assert overridden(config, ["limits.dilated=2"]).rules.to_mapping()["dilated"] == 2


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is no ordinary file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no ordinary file"),
    "too large": (
        lambda path: path.write_bytes(b"#" * (2**20 + 1)),
        "1,048,577 bytes, but a study file has 1,048,576 at most"),
    "deep": (lambda path: path.write_text(f"a = {'[' * 5_000}"), "brackets are nested too deeply"),
    "a number in base 16": (
        lambda path: path.write_text(f"[limits]\nmacs = 0x{'f' * 4_000}"),
        "limits.macs: has too many digits to be read"),
    "a rate that is no number": (
        lambda path: path.write_text(f"[training]\nlearning_rate = [1, {'9' * 400}]"),
        "training.learning_rate: has too many digits"),
    "a long number": (lambda path: path.write_text(f"a = {'9' * 5_000}"), "too many digits"),
    "a long line": (lambda path: path.write_text(f"a = {'x' * 5_000}"), f"{'x' * 90}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_file_is_told_in_one_short_line(kind: str, tmp_path: Path) -> None:
    make, words = STRANGE[kind]
    make(path := tmp_path / "s.toml")
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize("value", ["[" * 5_000, "9" * 5_000])
def test_a_strange_override_is_told_by_its_key(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set training\.epochs: "):
        load(_file(tmp_path, MINIMAL), [f"training.epochs={value}"])


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        (
            "study.epochs=3",
            "; did you mean augmentation.epochs or training.epochs?",
        ),  # in the wrong table
        ("trials=3", "; did you mean study.trials?"),
        ("space.c1.depth=2", "; did you mean C1?"),  # in the wrong case
        ("study.trails=3", "; did you mean trials?"),
        ("data.colour=3", "; there is kind, name, root, "),
    ],
)
def test_of_an_unknown_key_it_is_said_which_one_there_is(
    override: str, instead: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"unknown key{re.escape(instead)}"):
        load(_file(tmp_path, MINIMAL), [override])


def test_a_value_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, MINIMAL), ["training.epochs=[1, 2.5]"])
    assert str(caught.value).count("got") == 1


def test_an_editor_may_mark_a_file_as_utf_8_and_no_other_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert load(path).study.name == "s"
    path.write_text(MINIMAL, encoding="utf-16")
    with pytest.raises(ConfigError, match="not a text file in UTF-8; save it as one"):
        load(path)
    network = tmp_path / "network.json"
    network.write_text((STUDIES / "baseline.json").read_text(), encoding="utf-8-sig")
    assert read_architecture(network).input == (3, 32, 32)


def test_the_home_directory_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    path = _file(tmp_path, MINIMAL)
    assert load(path, ["data.root=~/images"]).data.root == Path("/somebody/images")
    assert load(path, ["data.root=a~b"]).data.root == Path("a~b")
