from __future__ import annotations

import json
from pathlib import Path

import pytest

from run_study import run
from tests.synthetic_study import build, config


def test_studies_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    (tmp_path / "studies").mkdir()
    for seed, name in enumerate(("one", "two")):
        build(config(name), f"sqlite:///studies/{name}.db", trials=8, running=0, seed=seed)
    assert run(["compare", "one", "two", "--html", "both.html"]) == 0
    table = capsys.readouterr().out
    assert "one" in table
    assert "two" in table
    html = (tmp_path / "both.html").read_text()
    assert html.count("<table>") == 2
    assert "data:image/png;base64" in html
    assert run(["compare", "one", "two", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [study["study"] for study in document] == ["one", "two"]
    assert run(["compare", "one", "three"]) == 2
