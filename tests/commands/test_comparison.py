from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from run_study import run
from search.display.figures import comparison
from tests.synthetic_study import build, config


def test_studies_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    (tmp_path / "studies").mkdir()
    studies = [
        build(config(name), f"sqlite:///studies/{name}.db", trials=8, running=0, seed=seed)
        for seed, name in enumerate(("one", "two"))
    ]
    best = [study.best_value for study in studies]
    costs = (0.0125, 0.25)
    for study, cost in zip(studies, costs, strict=True):
        for share in (0.2, 0.8):
            trial = study.best_trial
            trial.user_attrs["pflop"] = share * cost
            study.add_trial(trial)
    assert run(["compare", "one", "two", "--html", "both.html"]) == 0
    table = capsys.readouterr().out
    shown = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    for name, accuracy in zip(("one", "two"), best, strict=True):
        assert f"{100 * accuracy:.2f} %" in shown[name]
    html = (tmp_path / "both.html").read_text()
    assert html.count("<table>") == 2
    assert "data:image/png;base64" in html
    assert run(["compare", "one", "--html", "/dev/full"]) == 3
    assert "/dev/full: No space left on device" in capsys.readouterr().err
    assert run(["compare", "one", "two", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [study["study"] for study in document] == ["one", "two"]
    assert [study["best"]["accuracy"] for study in document] == best
    assert [study["pflop_spent"] for study in document] == pytest.approx(costs)
    for name, cost in zip(("one", "two"), ("12.5 TFLOP", "250 TFLOP"), strict=True):
        assert cost in shown[name]
        assert cost in html
    assert run(["compare", "one", "three"]) == 2


def test_a_figure_tells_studies_of_one_name_and_another_accuracy_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [config("one"), config("two", metric="balanced_accuracy"), config("one")]
    files = [Path(folder, "studies", "study.toml") for folder in "abc"]
    for file, study in zip(files, settings, strict=True):
        file.parent.mkdir(parents=True)
        file.write_text(study.to_toml())
        build(study, f"sqlite:///{file.parent}/{study.study.name}.db", trials=2, running=0)
    drawn = []

    def draw(*curves: Any) -> Figure:
        drawn.append(comparison_drawn(*curves))
        return drawn[-1]

    comparison_drawn = comparison.figure_comparison
    monkeypatch.setattr(comparison, "figure_comparison", draw)
    assert run(["compare", *map(str, files), "--html", "all.html"]) == 0
    (legend,) = drawn[0].legends
    names = ["one (1)", "two (balanced)", "one (2)"]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert all(f">{name}</th>" in Path("all.html").read_text() for name in names)
