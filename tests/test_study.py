from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import search
from run_study import run
from search import Study
from search.analysis.tracing.errors import TraceError
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.proposals.proposer import InfeasibleError
from search.storage.studies import study_config
from search.targets import study_of
from search.workers.supervisor import Ending, Workers
from tests.conftest import STUDIES, own
from tests.synthetic_study import build, config


@pytest.mark.parametrize("name", search.__all__)
def test_what_is_public_is_there(name: str) -> None:
    assert getattr(search, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_else"):
        _ = search.nothing_else


@pytest.mark.parametrize(
    ("given", "words"),
    [(nn.Flatten, r"Flatten is a class: check Flatten\(\)"), ("net.json", "but got str")],
)
def test_what_is_no_network_is_told(given: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        search.check(given)


def test_nothing_is_made_before_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(own(), overrides=["study.name=mine"])
    assert study.estimate().accepted > 0
    assert [file.name for file in tmp_path.glob("studies/*")] == ["quickstart.toml"]
    study.create()
    again = Study("mine", overrides=["study.trials=3"])
    assert again.config.study.trials == 3
    assert again.config.space == study.config.space
    assert again.load().trials == []
    for blocks in ("space.block.depth=3", "space.block={depth=3}"):
        with pytest.raises(ConfigError, match=r"space\.block.*: .* space\.C1\.depth, .*C4\.depth"):
            Study("mine", overrides=[blocks])


def test_text_does_for_a_path_and_for_a_list_of_one() -> None:
    file = str(STUDIES / "quickstart.toml")
    study = Study(file, overrides="study.name=mine", root="images", modules="mine.py:network")
    assert study.name == "mine"
    assert study.config.data.root == Path("images")
    assert study._modules == ["mine.py:network"]


@pytest.mark.parametrize("crew", [{"workers": 0}, {"per_gpu": 0}])
def test_a_launch_without_workers_is_refused_before_a_study_is_made(
    crew: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(own(), overrides=["study.name=mine"])
    with pytest.raises(ConfigError, match="= 0: must be at least 1"):
        study.launch(**crew)
    assert [file.name for file in tmp_path.glob("studies/*")] == ["quickstart.toml"]


def test_a_study_goes_on_as_it_was_begun_where_nothing_else_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Defaults may change from one version to the next, and what was typed once with --set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    plain = (STUDIES / "quickstart.toml").read_text().replace('pruner = "none"\n', "")
    file = Path("studies", "plain.toml")
    file.write_text(plain)
    Study(file, overrides=["study.pruner=hyperband", "study.seed=7"]).create()
    assert not caplog.messages
    again = Study(file, overrides=["study.trials=3"])
    again.create()
    kept = study_config(again.load()).study
    assert (kept.pruner, kept.seed, kept.trials) == ("hyperband", 7, 3)
    assert caplog.messages == [
        "study quickstart goes on with pruner = hyperband, as it was begun",
        "study quickstart goes on with seed = 7, as it was begun",
    ]
    with pytest.raises(ConfigError, match=r"study\.pruner: study quickstart has hyperband"):
        Study(file, overrides=["study.pruner=median"]).create()


def test_trials_are_a_table_for_pandas(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    (trial,) = build(config(), url, trials=1, running=0).trials
    (row,) = Study("demo", storage=url).load().trials_dataframe().to_dict("records")
    assert row["value_accuracy"] == trial.value
    assert row["user_attrs_parameters"] == trial.user_attrs["parameters"]
    assert {key[7:]: row[key] for key in row if key.startswith("params_")} == trial.params


def test_what_is_infeasible_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ["limits.parameters=100", "study.proposals=3000"]
    with pytest.raises(InfeasibleError, match=r"3,000 proposals.*parameters rejects 100\.0%"):
        Study(own(), overrides=changes).create()
    assert [file.name for file in tmp_path.glob("**/*.*")] == ["quickstart.toml"]


def test_a_study_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="nothing"):
        Study("nothing")


@pytest.mark.parametrize("name", ["demo.db", "demo", "./demo.db", "demo.toml"])
def test_a_database_in_place_of_a_study_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(config("kept"), f"sqlite:///{name}", trials=1, running=0)
    with pytest.raises(
        ConfigError,
        match=f"{Path(name)}: is a database; .* --from sqlite:///{tmp_path / name}:NAME",
    ):
        study_of(name)


def test_a_study_and_its_database_may_share_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(config("demo"), "sqlite:///demo", trials=1, running=0)
    assert Study("demo", storage="sqlite:///demo").name == "demo"


def test_what_has_been_searched_is_told_by_the_database_whatever_the_file_says_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    begun = overridden(config("demo", target=0.5, trials=2, finalists=1), ["data.kind=digits"])
    (tmp_path / "studies").mkdir()
    build(begun, "sqlite:///studies/demo.db", trials=2, running=0)
    edited = overridden(begun, ["study.target=0.9", "augmentation.rotate=90", "data.root=there"])
    file = tmp_path / "studies" / "demo.toml"
    file.write_text(edited.to_toml())
    for command in ("status", "compare"):
        run([command, str(file), "--json"])
        told = json.loads(capsys.readouterr().out)
        (found,) = told if isinstance(told, list) else [told]
        assert (found["target"], found["target_met"]) == (0.5, True)
    assert Study(file).summary.config.study.target == 0.5
    asked = Study(file, overrides=["study.target=0.99"])
    assert asked.summary.config.study.target == 0.99
    seen: list[StudyConfig] = []
    places: list[Path] = []

    def write(_: object, config: StudyConfig, out: Path, **rest: object) -> None:
        seen.append(config)
        places.append(out)

    monkeypatch.setattr("search.bundles.export.export", write)
    Study(file).export("there", trial=0, device="cpu")
    (exported,) = seen
    assert places == [Path("there")]
    assert (exported.study.target, exported.augmentation.rotate) == (0.5, begun.augmentation.rotate)
    assert exported.data.root == Path("there"), "where images lie is each machine's own"
    assert run(["worker", str(file), "--device", "cpu"]) == 0
    assert "target 0.5 met" in capsys.readouterr().err


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of ten images, 32 x 32, in the folder `2024`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        place = tmp_path / "2024" / "train" / name
        place.mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    return tmp_path / "2024"


def _of(images: Path, *changes: str) -> Study:
    settings = ["study.name=mine", "data.kind=imagefolder", f"data.root='{images}'", *changes]
    return Study(own(), overrides=[*settings, "data.validation=0.2"])


def _another_class(images: Path) -> None:
    shutil.copytree(images / "train" / "cat", images / "train" / "eel")


def _one_image_less(images: Path) -> None:
    (images / "train" / "cat" / "3.png").unlink()


def _another_image(images: Path) -> None:
    for name in ("cat", "dog"):
        shutil.copy(images / "train" / name / "4.png", images / "train" / name / "5.png")


def _classes_exchanged(images: Path) -> None:
    (images / "train" / "cat").rename(images / "train" / "other")
    (images / "train" / "dog").rename(images / "train" / "cat")
    (images / "train" / "other").rename(images / "train" / "dog")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (_another_class, "other classes: cat, dog then, cat, dog, eel now"),
    (_one_image_less, "other training images: 16 then, 15 now"),
    (_another_image, "other pixels: "),
    (_classes_exchanged, "other pixels: "),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_study_goes_on_with_the_images_that_it_was_begun_on(
    change: Callable[[Path], None],
    words: str,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _of(images).create()
    _of(images).create()
    moved = images.with_name("moved")
    images.rename(moved)
    _of(moved).create()  # the same images, elsewhere
    change(moved)
    for begin in (_of(moved).create, Study("mine", root=moved).work):
        with pytest.raises(ConfigError, match=f"data: study mine was begun on {words}") as caught:
            begin()
        assert len(str(caught.value).splitlines()) == 1
    assert run(["worker", "mine", f"--data={moved}"]) == 2
    assert "begun on other" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["true", "1e5", "[1]", "2024-01-01", "'a'", "-x", "a b"])
def test_a_worker_reads_the_folder_that_launch_was_told(
    name: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _of(images).create()
    assert Study("mine", root=Path(name)).config.data.root == Path(name)
    assert run(["worker", "mine", f"--data={name}"]) == 3
    assert f"run_study: {Path(name) / 'train'}: no such directory" in capsys.readouterr().err


@pytest.mark.parametrize("hours", [0.5, None])
def test_a_launch_keeps_its_budget_beside_another(
    hours: float | None, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def launched(workers: Workers, _: object) -> Ending:
        _of(images, "study.trials=9", "study.hours=2").create()  # before the workers have read it
        commands.extend(workers.command)
        return Ending("", 0)

    monkeypatch.setattr("search.workers.supervisor.launch", launched)
    _of(images, "study.trials=3", f"study.hours={hours or ''}").launch(tick=lambda: None)
    told = [word.removeprefix("--set=") for word in commands if word.startswith("--set=")]
    section = Study("mine", overrides=told).config.study
    assert (section.trials, section.hours) == (3, hours)
