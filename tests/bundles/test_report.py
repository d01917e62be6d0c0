"""The report: every part, no empty one, and nothing in it that was not found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from constraints import check
from search.bundles.contents import BundleError
from search.bundles.files import write_files
from search.bundles.findings import Findings
from search.bundles.importance import importances
from search.bundles.metrics import Accuracy, Data, Metrics, Search, read
from search.bundles.numbers import require_headline
from search.bundles.parts.pages import Pages
from search.bundles.report import report
from search.bundles.rival import rivals
from search.bundles.verify import verify
from search.config.sections import AugmentationSection, DataSection
from search.data import datasets
from search.data.datasets import Dataset
from search.data.normalization import Normalization
from search.display.figures.style import STYLE
from search.networks import module
from search.proposals.parameters import distributions
from search.storage.finalists import choose
from search.storage.studies import create_or_resume
from search.storage.summary import summarize
from search.storage.trials import candidate_of
from search.study import Study
from search.version import version
from tests.bundles.conftest import Exported
from tests.synthetic_study import build, config, feasible

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
    summary = summarize(study, study_config)
    metrics = Metrics(
        version=1,
        study="demo",
        trial=trial.number,
        search=Search.of(summary),
        retrained=True,
        accuracy=Accuracy(validation=trial.values[0], test=0.9, test_correct=9 * len(test) // 10),
        receptive_field=verdict.analysis.smaller_field,
        parameters=verdict.analysis.parameters,
        macs=verdict.analysis.macs,
        cost={"trial_pflop": 0.25, "study_pflop": 1.5},
        data=Data.of(dataset, test, Normalization(dataset.mean, dataset.std)),
        hardware={"device": "cpu: 1 threads", "cores": 2},
        versions={"torch": "2.15.0"},
        seeds={"study": 0},
        onnx_opset=20,
        files={},
    )
    values = {
        "config": study_config,
        "number": trial.number,
        "candidate": candidate_of(trial),
        "verdict": verdict,
        "network": module.build(candidate_of(trial).architecture).eval(),
        "dataset": dataset,
        "test": test,
        "logits": logits,
        "history": trial.user_attrs["history"],
        "retraining": [
            {**e, "accuracy": float("nan"), "validation_loss": float("nan")}
            for e in trial.user_attrs["history"]
        ],
        "summary": summary,
        "rivals": None,
        "importance": None,
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
    write_files(folder, Pages.write(findings(study, digits)))
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


def test_the_page_has_the_fonts_of_its_figures(bundle: Path) -> None:
    fonts = re.findall(r'font(?:-family)?: [^";]*"([^"]+)"', (bundle / "report.html").read_text())
    assert fonts == [STYLE["font.family"], f"{STYLE['font.family']} Mono"]


def test_gray_images_have_one_channel_however_they_are_read(bundle: Path, digits: Dataset) -> None:
    text = (bundle / "README.md").read_text()
    assert "in 3 channels, all equal." in text
    assert f"| gray | {digits.mean[0]:.4f} |" in text
    assert "| red |" not in text


def test_the_report_says_what_made_it(exported: Exported) -> None:
    text = (exported.bundle / "README.md").read_text()
    assert f"| c1c4-search | {version()} |" in text


def test_its_commands_run_where_it_lies(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (copy / "README.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    again = 'cd .. && c1c4-search launch "$OLDPWD/study.toml"'
    assert block.splitlines() == ["c1c4-search verify .", again]
    monkeypatch.chdir(copy)
    accuracy = next(each for each in verify(Path(".")) if each.name == "accuracy")
    assert accuracy.ok, accuracy.detail
    monkeypatch.chdir(copy.parent)
    study = Study(copy / "study.toml")
    study.prepare()
    assert Path("studies").absolute() in study.runs.absolute().parents  # not in the bundle


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


@pytest.mark.parametrize("drawn", [True, False])
def test_it_says_where_the_validation_images_come_from(
    drawn: bool, study: optuna.Study, digits: Dataset
) -> None:
    text, _ = report(findings(study, replace(digits, drawn=drawn)))
    assert ("a stratified share (10 %) of the training set" in " ".join(text.split())) == drawn
    assert ("came beside the training images.\n\n![" in text) != drawn


def test_flips_by_turns_are_told(study: optuna.Study, digits: Dataset) -> None:
    augmentation = AugmentationSection(alternate_flips=True)
    turns = config().model_copy(update={"augmentation": augmentation})
    for name, given in {"chance": config(), "turns": turns}.items():
        text, _ = report(findings(study, digits, config=given))
        assert ("in every second epoch" in text) == (name == "turns")


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
) -> None:
    augmentation = AugmentationSection(flip_probability=flip_probability, epochs=epochs)
    given = config().model_copy(update={"augmentation": augmentation})
    text, _ = report(findings(study, digits, config=given))
    assert ("1 augmented set of the training images was made" in text) == bool(told)
    assert told in " ".join(text.split())


def test_names_from_outside_are_text(study: optuna.Study, digits: Dataset, tmp_path: Path) -> None:
    named = Dataset(digits.name, HOSTILE, digits.train, digits.validation)
    write_files(tmp_path, Pages.write(findings(study, named)))
    page = _Page((tmp_path / "report.html").read_text())
    assert all(name in page.text for name in HOSTILE)
    assert "script" not in {tag for tag, _ in page.tags}
    emphasized = [tag for tag, _ in page.tags].count("em")
    assert emphasized == len(list((tmp_path / "figures").iterdir()))  # the captions alone
    assert not [attrs for tag, attrs in page.tags if tag == "a"]


def test_a_network_without_mistakes(study: optuna.Study, digits: Dataset, tmp_path: Path) -> None:
    test = datasets.load_test(DataSection(kind="digits"))
    perfect = np.eye(10, dtype=np.float32)[test.labels]
    write_files(tmp_path, Pages.write(findings(study, digits, logits=perfect, retraining=[])))
    assert "0 misclassified" in (tmp_path / "README.md").read_text()


def test_mistakes_come_with_the_most_confident_first(study: optuna.Study, digits: Dataset) -> None:
    logits = np.random.default_rng(0).normal(size=(360, 10)).astype(np.float32)
    found = findings(study, digits, logits=logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sure = shares.max(axis=1)[found.mistakes]
    assert (np.diff(sure) <= 1e-6).all()
    assert (found.predicted[found.mistakes] != found.test.labels[found.mistakes]).all()
    assert len(found.mistakes) == (found.predicted != found.test.labels).sum()


def test_accuracy_of_the_search_is_the_mean_where_there_were_several_trainings(
    finals: optuna.Study, digits: Dataset, tmp_path: Path
) -> None:
    found = findings(finals, digits)
    write_files(tmp_path, Pages.write(found))
    readme = (tmp_path / "README.md").read_bytes()
    leader = Search.of(found.summary).finalists[0]
    mean = f"{100 * leader.mean:.2f} ± {100 * leader.error:.2f} % over {leader.trainings} trainings"
    assert readme.decode().count(mean) >= 2  # the first table, and the target's verdict
    assert f"measured {100 * leader.accuracy:.2f} %, once" in readme.decode()
    content = found.metrics.model_dump(mode="json", exclude_unset=True)
    assert require_headline(readme, read(json.dumps(content).encode()))
    content["search"]["finalists"][0]["mean"] += 0.001
    with pytest.raises(BundleError, match="validation accuracy"):
        require_headline(readme, read(json.dumps(content).encode()))


def test_a_search_by_balanced_accuracy_tells_it_of_the_test_images(
    study: optuna.Study, digits: Dataset
) -> None:
    found = findings(study, digits, config=config(metric="balanced_accuracy"))
    beside = rivals(study, found.config, found.summary, found.number)
    found = replace(found, rivals=beside)
    rare = [{**record, "balanced_accuracy": record["accuracy"] / 2} for record in found.history]
    found = replace(found, history=rare)
    once = found.metrics.accuracy
    accuracy = once.model_copy(update={"test_balanced": 0.625})
    metrics = found.metrics.model_copy(update={"accuracy": accuracy})
    pages = Pages.write(replace(found, metrics=metrics))
    readme, html = pages["README.md"], pages["report.html"].decode()
    (names, _, cells) = re.findall(r"^\|.*\|$", readme.decode(), re.MULTILINE)[:3]
    head = dict(zip(names.strip("| ").split(" | "), cells.strip("| ").split(" | "), strict=True))
    assert head["balanced test accuracy"] == "**62.50 %**"
    assert head["balanced validation accuracy"] == f"{100 * once.validation:.2f} %"
    (log,) = (line for line in readme.decode().splitlines() if line.startswith("| epoch |"))
    assert "| balanced validation accuracy |" in log
    assert "\n| trial | balanced accuracy as measured once |" in readme.decode()
    measured = [f"{50 * record['accuracy']:.2f} %" for record in found.history]
    for epoch, share in enumerate(measured, 1):
        (row,) = re.findall(rf"^\| {epoch} \| 0\..*\|$", readme.decode(), re.MULTILINE)
        assert row.split(" | ")[4] == share
    assert "Balanced validation accuracy of the trials in order." in html
    assert "of all test images 90.00 % are right" in html.replace("\n", " ")
    words = " ".join(readme.decode().split())
    assert "with at least 85.00 % balanced accuracy on validation images" in words
    assert f"has {100 * once.validation:.2f} % there, and 62.50 % on the test images" in words
    assert "| balanced accuracy as measured once |" in words
    assert "has the highest balanced accuracy of" in words
    assert require_headline(readme, metrics)
    with pytest.raises(BundleError, match="balanced test accuracy"):
        require_headline(readme, found.metrics)


def test_time_and_cost_are_of_the_same_trainings(finals: optuna.Study, digits: Dataset) -> None:
    found = findings(finals, digits)
    taken, *own = (replace(trial, seconds=1.0) for trial in found.summary.trials)
    again = tuple(replace(trial, seconds=60.0) for trial in found.summary.finals)
    trials = (replace(taken, taken="older:3"), *own)
    summary = replace(found.summary, trials=trials, finals=again)
    text, _ = report(replace(found, summary=summary))
    seconds = len(own) + 60 * len(again)  # `study_pflop` counts those of finalists, too
    assert f"together took {seconds // 60}:{seconds % 60:02} and" in " ".join(text.split())


def test_each_transform_of_ones_own_has_a_column_beside_the_three(
    study: optuna.Study, digits: Dataset
) -> None:
    extra = [{"name": "InvertImg", "p": 0.0}, {"name": "ColorJitter"}]
    augmented = config().model_copy(
        update={"augmentation": AugmentationSection.model_validate({"extra": extra})}
    )
    text, pictures = report(findings(study, digits, config=augmented))
    assert "These transforms on training images" in text
    (axes,) = pictures["figures/augmentations.png"].axes
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns[4:-1] == ["InvertImg\np = 0", "ColorJitter\np = 0.5"]
    shown = np.asarray(axes.images[0].get_array())[..., 0].astype(float)
    wide = shown.shape[1] / len(columns)
    original, inverted = (shown[4:20, int(k * wide) + 8 : int(k * wide) + 24] for k in (0, 4))
    assert np.abs(original + inverted - 255).mean() < 1, "always applied, whatever its chance"


def test_importances_want_trials_that_differ(study: optuna.Study) -> None:
    found = importances(study, seeds=2, shuffles=2)
    assert found
    assert sum(found.shares.values()) == pytest.approx(1)
    assert set(found.shares) <= set(config().parameters)
    assert importances(optuna.create_study()) is None


def test_trainings_of_finalists_tell_nothing_of_choices(
    study: optuna.Study, finals: optuna.Study
) -> None:
    """They are the same trials but for the finalists'."""
    assert importances(finals, seeds=2, shuffles=2) == importances(study, seeds=2, shuffles=2)


def _studied(accuracy: Callable[[dict[str, Any]], float], trials: int = 30) -> optuna.Study:
    """Of `trials` with two choices, of uniform draws."""
    study = optuna.create_study(direction="maximize")
    rng = np.random.default_rng(3)
    both = {name: FloatDistribution(0, 1) for name in ("told", "idle")}
    for _ in range(trials):
        params = {name: float(rng.random()) for name in both}
        value = accuracy(params) + 0.01 * rng.normal()
        study.add_trial(create_trial(params=params, distributions=both, value=value))
    return study


def test_a_choice_that_decides_stands_out_and_noise_does_not() -> None:
    told = importances(_studied(lambda choices: choices["told"]), seeds=2)
    noise = importances(_studied(lambda choices: 0.5), seeds=2)
    assert told
    assert noise
    assert (told.mattered, noise.mattered) == (["told"], [])
    assert told.shares["told"] > 0.8
    assert not told.few
    few = importances(_studied(lambda choices: choices["told"], 19), seeds=2, shuffles=1)
    assert few
    assert few.few


# ------------------------------------------------------------------------ why this one


def why(findings: Findings) -> str:
    text, _ = report(findings)
    return text.partition("### Why this one\n")[2].partition("\n## ")[0]


def test_the_winner_stands_beside_the_runner_up(finals: optuna.Study, digits: Dataset) -> None:
    found = findings(finals, digits)
    leader, second, lost = Search.of(found.summary).finalists
    beside = rivals(finals, config(), found.summary, leader.trial)
    measured = importances(finals, seeds=2, shuffles=2)
    text = why(replace(found, rivals=beside, importance=measured))
    assert f"| this one, trial {leader.trial} | runner-up, trial {second.trial} |" in text
    once = (f"{100 * each.accuracy:.2f} %" for each in (leader, second))
    assert f"| accuracy as measured once | {' | '.join(once)} |" in text
    assert f"| mean ± error | {leader.words} | {second.words} |" in text
    assert f"| #{lost.trial} |" in text
    assert "Over 14 completed trials, which are few (take it as a hint), " in text
    assert "](figures/importance.png)" in text
    first, other = (finals.trials[each.trial].params for each in (leader, second))
    shown = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, flags=re.M))
    assert shown
    assert all(first[name] != other[name] for name in shown)


@pytest.mark.parametrize("depth", [1, 2])
def test_choices_without_effect_do_not_tell_two_trials_apart(depth: int, tmp_path: Path) -> None:
    """C1's first unit, from 3 channels to 32, has no shortcut; its second has."""
    study = create_or_resume(config(), f"sqlite:///{tmp_path}/s.db")
    first = {**feasible(config(), 0), "C1.depth": 1, "C1.width": 32, "C1.residual": False}
    second = {**first, "C1.depth": depth, "C1.residual": True, "training.learning_rate": 0.05}
    for choices, accuracy in ((first, 0.9), (second, 0.8)):
        candidate = config().candidate(choices, input=(3, 32, 32), classes=10)
        carried = {"architecture": candidate.architecture.to_json(), "verdict": "accepted"}
        carried["recipe"] = vars(candidate.recipe)
        both = {"params": choices, "distributions": distributions(config())}
        study.add_trial(create_trial(value=accuracy, user_attrs=carried, **both))
    found = rivals(study, config(), summarize(study, config()), 0)
    assert found
    of_c1 = {"C1.depth": (1, 2), "C1.residual": (False, True)} if depth == 2 else {}
    rate = {"training.learning_rate": (first["training.learning_rate"], 0.05)}
    assert found.differences == of_c1 | rate


def test_another_trial_stands_beside_the_choice_of_the_study(
    finals: optuna.Study, digits: Dataset
) -> None:
    found = findings(finals, digits)
    last = found.summary.best[-1].number
    beside = rivals(finals, config(), found.summary, last)
    text = why(replace(found, number=last, rivals=beside))
    assert f"the study's own choice is trial {choose(finals).number} (best of 20 trials" in text


def test_without_finalists_luck_is_named(study: optuna.Study, digits: Dataset) -> None:
    found = findings(study, digits)
    beside = rivals(study, config(), found.summary, found.number)
    text = why(replace(found, rivals=beside))
    assert "it may be luck" in " ".join(text.split())
    assert "mean ± error" not in text


@pytest.mark.parametrize(
    ("target", "reason"),
    [(0.5, "met the target at the lowest cost of"), (0.999, "has the highest accuracy of")],
)
def test_it_says_that_a_search_for_the_lowest_cost_chose_by_it(
    target: float, reason: str, study: optuna.Study, digits: Dataset
) -> None:
    found = findings(study, digits)
    settings = config(objectives=["accuracy", "pflop"], pruner="none", target=target)
    summary = replace(found.summary, config=settings)
    beside = rivals(study, settings, summary, found.number)
    text = why(replace(found, rivals=beside, summary=summary))
    assert f"Trial {found.number} {reason}" in " ".join(text.split())


def test_a_single_trial_has_no_rival(exported: Exported) -> None:
    trial = exported.study.trials[0].number
    assert rivals(exported.study, exported.config, summarize(exported.study), trial) is None
    assert "Why this one" not in (exported.bundle / "README.md").read_text()
