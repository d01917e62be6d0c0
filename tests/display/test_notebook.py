"""What Jupyter shows, read as a browser reads it."""

from __future__ import annotations

import importlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

import search
from search import Architecture, Limits, SearchSpace, Study, check
from search.config.sections import DEFAULT_LIMITS
from search.display.notebook import html
from search.storage.summary import summarize
from search.targets import read_architecture
from tests.conftest import STUDIES, own
from tests.synthetic_study import build, config

BASELINE = read_architecture(STUDIES / "baseline.json")


class _Tables(HTMLParser):
    """The cells of all tables, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("table", "tr", "td", "th", "div", "b", "code"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, "tags must close in the order in which they open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def rows(shown: object) -> list[list[str]]:
    tables = _Tables(html(shown))
    assert tables.open == []
    assert all(len(row) in (1, 2, 4, 7, 16) for row in tables.rows)
    return tables.rows


def test_a_network_shows_the_published_table() -> None:
    """The assignment's own, of its baseline."""
    table = {row[1]: row for row in rows(BASELINE)}
    assert table["CONV5"][2:13] == ["conv", *["3", "1", "1", "2", "2", "14", "12", "9", "17", "2"]]
    assert table["CONV14"][3:13] == ["3", "1", "1", "1", "4", "4", "4", "53", "61", "4"]
    assert sum(int(row[13].replace(",", "")) for op, row in table.items() if op != "op") == 186_570
    assert "receptive field 61 · 186,570 parameters" in html(BASELINE)


def test_a_verdict_names_what_is_broken() -> None:
    shown = html(check(BASELINE))
    assert "✗ downsampling: " in shown
    assert "accepted" not in shown


def test_a_module_is_checked_as_an_architecture_is() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 5, dilation=2), nn.AdaptiveAvgPool2d(1))
    verdict = check(network, Limits.from_mapping({"receptive_field": 8}), input=(1, 20, 20))
    assert verdict.accepted
    assert verdict.analysis.receptive_field == (9, 9)
    assert not check(BASELINE).accepted, "the limits of the assignment, where none are given"


def test_spaces_limits_and_studies_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = SearchSpace.model_validate({"head": [0, 64], "dropout": {"low": 0.0, "high": 0.5}})
    assert rows(space)[1:] == [["head", "0, 64"], ["dropout", "0 to 0.5"]]
    assert ["parameters < 200,000"] in rows(Limits.from_mapping(DEFAULT_LIMITS))
    study = Study(own())
    assert "not launched yet" in html(study)
    assert rows(study.estimate())[1][:3] == ["proposed", "2,000", "100.0 %"]
    place = study.place.secret
    made = build(config("demo"), place.replace("quickstart", "demo"))
    leaders = rows(summarize(made))
    assert leaders[1][:2] == [f"#{made.best_trial.number}", f"{100 * made.best_value:.2f} %"]
    best = Study("demo").architecture()
    assert best == Architecture.from_json(made.best_trial.user_attrs["architecture"])
    assert html(Study("demo")) == html(summarize(made))


def test_words_of_others_are_no_tags() -> None:
    named = Architecture(BASELINE.blocks, BASELINE.output, name="<script>")
    assert "<script>" not in html(named)
    with pytest.raises(TypeError, match="int has no tables"):
        html(3)


def test_jupyter_shows_it() -> None:
    shell = InteractiveShell.instance()
    try:
        importlib.reload(search)
        shown, _ = shell.display_formatter.format(BASELINE)
        assert shown["text/html"] == html(BASELINE)
        shown, _ = shell.display_formatter.format(3)
        assert "text/html" not in shown
    finally:
        InteractiveShell.clear_instance()
