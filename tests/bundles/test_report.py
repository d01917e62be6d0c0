"""The report: every part, no empty one, and nothing in it that was not found."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from constraints import check
from search.bundles.findings import Findings, importances
from search.bundles.report import write_report
from search.config.sections import AugmentationSection, DataSection
from search.data import datasets
from search.data.datasets import Dataset
from search.storage.finalists import choose
from search.storage.summary import summarize
from search.storage.trials import candidate_of
from tests.synthetic_study import build, config

SECTIONS = (
    "1. Objective",
    "2. Data",
    "3. Model",
    "4. Receptive field",
    "5. Training",
    "6. Results on the test images",
    "7. How it was found",
    "8. How to run it again",
)
HOSTILE = ("<script>alert(1)</script>", "a|b", "[x](javascript:y)", "`c`", "*d*", *"56789")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    return build(config(), f"sqlite:///{tmp_path_factory.mktemp('study')}/demo.db", trials=20)


def findings(study: optuna.Study, dataset: Dataset, **changes: Any) -> Findings:
    """A report on the study's winner, as if it had been tested on the test digits."""
    study_config = config()
    trial = choose(study)
    test = datasets.load_test(DataSection(kind="digits"))
    logits = np.eye(10, dtype=np.float32)[test.labels] * 5
    logits[::10] = np.roll(logits[::10], 1, axis=1)
    verdict = check(candidate_of(trial).architecture, study_config.rules)
    metrics = {
        "study": "demo",
        "retrained": True,
        "accuracy": {"validation": trial.values[0], "test": 0.9},
        "receptive_field": verdict.analysis.receptive_field[0],
        "cost": {"trial_pflop": 0.25, "study_pflop": 1.5},
        "data": {"name": "digits"},
        "hardware": {"device": "cpu: 1 threads", "cores": 2},
        "versions": {"torch": "2.15.0"},
        "seeds": {"study": 0},
        "onnx_opset": 20,
    }
    values = {
        "config": study_config,
        "number": trial.number,
        "candidate": candidate_of(trial),
        "verdict": verdict,
        "dataset": dataset,
        "test": test,
        "logits": logits,
        "history": trial.user_attrs["history"],
        "retraining": [
            {**e, "accuracy": float("nan"), "validation_loss": float("nan")}
            for e in trial.user_attrs["history"]
        ],
        "summary": summarize(study, study_config),
        "importance": {},
        "metrics": metrics,
    }
    return Findings(**{**values, **changes})


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        self.text += text


@pytest.fixture(scope="module")
def bundle(study: optuna.Study, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_report(findings(study, digits), folder)
    return folder


def test_every_section_is_there_and_none_is_empty(bundle: Path) -> None:
    parts = re.split(r"^## ", (bundle / "README.md").read_text(), flags=re.M)[1:]
    assert tuple(part.splitlines()[0] for part in parts) == SECTIONS
    assert all(len(part.split()) > 40 for part in parts)


def test_every_figure_is_shown_once_and_every_shown_one_exists(bundle: Path) -> None:
    shown = re.findall(r"!\[[^]]*\]\((figures/[^)]+)\)", (bundle / "README.md").read_text())
    assert sorted(shown) == sorted(f"figures/{p.name}" for p in (bundle / "figures").iterdir())
    captions = re.findall(r"\*Figure (\d+)\.", (bundle / "README.md").read_text())
    assert captions == [str(n + 1) for n in range(len(shown))]


def test_the_page_is_one_file_that_loads_nothing(bundle: Path) -> None:
    page = _Page((bundle / "report.html").read_text())
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == len(list((bundle / "figures").iterdir()))
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert all(section in page.text for section in SECTIONS)


def test_the_receptive_field_has_the_columns_of_the_original(
    bundle: Path, study: optuna.Study
) -> None:
    text = (bundle / "README.md").read_text()
    assert "| op | k | p | s | d | Jin | Nin | Nout | Rin | Rout | Jout |" in text
    last = [row.split("|") for row in text.splitlines() if row.startswith("| CONV")][-1]
    assert last[10].strip() == str(choose(study).user_attrs["receptive_field"])


def test_every_rule_has_its_verdict(bundle: Path) -> None:
    text = (bundle / "README.md").read_text()
    assert text.count("| holds |") == len(config().rules.rules)


def test_the_log_lists_every_epoch(bundle: Path, study: optuna.Study) -> None:
    text = (bundle / "README.md").read_text()
    epochs = len(choose(study).user_attrs["history"])
    assert len(re.findall(r"^\| \d+ \| 0\.1000 \|", text, flags=re.M)) == epochs
    assert "nan" not in text


def test_flips_by_turns_are_told(study: optuna.Study, digits: Dataset, tmp_path: Path) -> None:
    augmentation = AugmentationSection(alternate_flips=True)
    turns = config().model_copy(update={"augmentation": augmentation})
    for name, given in {"chance": config(), "turns": turns}.items():
        (tmp_path / name).mkdir()
        write_report(findings(study, digits, config=given), tmp_path / name)
        told = "in every second epoch" in (tmp_path / name / "README.md").read_text()
        assert told == (name == "turns")


@pytest.mark.parametrize(
    ("flip_probability", "epochs", "told"),
    [(0.5, 1, "once, every second time mirrored"), (0.0, 1, "once."), (0.5, 1000, "")],
)
def test_copies_that_are_read_again_are_told(
    flip_probability: float,
    epochs: int,
    told: str,
    study: optuna.Study,
    digits: Dataset,
    tmp_path: Path,
) -> None:
    augmentation = AugmentationSection(flip_probability=flip_probability, epochs=epochs)
    given = config().model_copy(update={"augmentation": augmentation})
    write_report(findings(study, digits, config=given), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert ("copies of the training images" in text) == bool(told)
    assert told in " ".join(text.split())


def test_names_from_outside_are_text(study: optuna.Study, digits: Dataset, tmp_path: Path) -> None:
    named = Dataset(digits.name, HOSTILE, digits.train, digits.validation)
    write_report(findings(study, named), tmp_path)
    page = _Page((tmp_path / "report.html").read_text())
    assert all(name in page.text for name in HOSTILE)
    assert "script" not in {tag for tag, _ in page.tags}
    emphasized = [tag for tag, _ in page.tags].count("em")
    assert emphasized == len(list((tmp_path / "figures").iterdir()))  # the captions alone
    assert not [attrs for tag, attrs in page.tags if tag == "a"]


def test_a_network_without_mistakes(study: optuna.Study, digits: Dataset, tmp_path: Path) -> None:
    test = datasets.load_test(DataSection(kind="digits"))
    perfect = np.eye(10, dtype=np.float32)[test.labels]
    write_report(findings(study, digits, logits=perfect, retraining=[]), tmp_path)
    assert "0 misclassified" in (tmp_path / "README.md").read_text()


def test_mistakes_come_with_the_most_confident_first(study: optuna.Study, digits: Dataset) -> None:
    logits = np.random.default_rng(0).normal(size=(360, 10)).astype(np.float32)
    found = findings(study, digits, logits=logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sure = shares.max(axis=1)[found.mistakes]
    assert (np.diff(sure) <= 1e-6).all()
    assert (found.predicted[found.mistakes] != found.test.labels[found.mistakes]).all()
    assert len(found.mistakes) == (found.predicted != found.test.labels).sum()


def test_importances_want_trials_that_differ(study: optuna.Study) -> None:
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= set(config().parameters)
    assert importances(optuna.create_study()) == {}
