from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from rich.console import Console, RenderableType

from constraints import Limits, Violation, check
from search.config.files import overridden
from search.config.sections import DEFAULT_LIMITS
from search.display import terminal, wording
from search.display.apart import apart
from search.display.live import LiveView
from search.display.rhythm import Rhythm
from search.networks.architecture import Architecture
from search.proposals.proposer import Acceptance, Proposal
from tests.published import BASELINE
from tests.synthetic_study import CLASSES, INPUT, build, config, feasible

ROOT = Path(__file__).parents[2]
LIMITS = Limits.from_mapping(DEFAULT_LIMITS)


def shown(renderable: RenderableType, width: int = 100) -> str:
    output = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    output.print(renderable)
    return output.file.getvalue()


@pytest.fixture(scope="module")
def baseline() -> Architecture:
    return Architecture.from_json(json.loads((ROOT / "studies/baseline.json").read_text()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    folder = tmp_path_factory.mktemp("terminal")
    return build(config(), f"sqlite:///{folder}/demo.db")


# ------------------------------------------------------------------------------ check


@pytest.mark.parametrize("width", [80, 100])
def test_check_prints_the_published_table(baseline: Architecture, width: int) -> None:
    lines = shown(terminal.render_check(check(baseline, LIMITS), LIMITS), width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [" ".join(line.split()) for line in lines]
    for published in BASELINE:
        assert any(re.match(rf"(C\d )?{published} ", row) for row in rows), published
    assert any("186,570 23,143,552" in row for row in rows)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_check_explains_its_columns_and_cuts_none(baseline: Architecture, width: int) -> None:
    text = shown(terminal.render_check(check(baseline, LIMITS), LIMITS), width)
    assert "…" not in text
    assert "k kernel, p padding, s stride, d dilation; J jump" in text
    rows = [line.split() for line in text.splitlines()]
    assert any(row[:1] == ["CLASSIFIER"] or row[1:2] == ["CLASSIFIER"] for row in rows)
    assert any(row[:2] == ["186,570", "23,143,552"] for row in rows)
    assert ("A wider terminal shows" in text) == (width < 80)


def test_advice_is_a_note_where_there_is_nothing_to_help(baseline: Architecture) -> None:
    lenient = Limits.from_mapping({"parameters": 10**9})
    kept = shown(terminal.render_check(check(baseline, lenient), lenient, advice=["so"]))
    lost = shown(terminal.render_check(check(baseline, LIMITS), LIMITS, advice=["so"]))
    assert ("Notes" in kept, "What would help" in kept) == (True, False)
    assert ("Notes" in lost, "What would help" in lost) == (False, True)


def test_check_tells_the_verdict_per_rule(baseline: Architecture) -> None:
    text = shown(terminal.render_check(check(baseline, LIMITS), LIMITS, advice=["do this"]))
    assert "✓ receptive field > 44: 61\n" in text
    assert "✓ parameters < 200,000: 186,570\n" in text
    assert text.count("✗") == 1
    assert "✗ downsampling: exactly 3 3x3 stride-2 convolutions" in text
    assert "rejected: 1 rule broken" in text
    assert "• do this" in text


def test_check_says_so_when_every_rule_holds() -> None:
    limits = Limits.from_mapping({"parameters": 10**9, "macs": 10**12})
    study_config = config()
    choices = feasible(study_config, seed=3)
    candidate = study_config.candidate(choices, input=INPUT, classes=CLASSES)
    text = shown(terminal.render_check(check(candidate.architecture, limits), limits))
    assert "accepted: every rule holds" in text
    assert "✗" not in text


def test_bars_are_as_long_as_the_shares(baseline: Architecture) -> None:
    text = shown(terminal.render_check(check(baseline, LIMITS), LIMITS), 100)
    bars = {row.split()[-13]: row.count("█") for row in text.splitlines() if "37,056" in row}
    half = next(row.count("█") for row in text.splitlines() if "18,624" in row)
    assert len(set(bars.values())) == 1
    assert half * 2 == max(bars.values())


# ----------------------------------------------------------------------------- sample


def test_the_funnel_draws_shares() -> None:
    text = shown(terminal.render_funnel(1000, 10, {"parameters": 500, "dilated": 250}), 100)
    rows = {line.split("  ")[0].strip("✗✓ "): line for line in text.splitlines()}
    lengths = {name: row.count("█") for name, row in rows.items()}
    full = lengths["proposed"]
    assert full > 40
    broken = {line: line.count("█") for line in text.splitlines() if "✗" in line}
    assert [round(n / full, 1) for n in broken.values()] == [0.5, 0.2]
    assert "50.0 %" in text
    assert "1.0 %" in text


def test_the_funnel_says_how_many_rules_it_leaves_out() -> None:
    text = shown(terminal.render_funnel(9, 1, {f"rule{i}": i + 1 for i in range(5)}, most=2))
    assert "and 3 rules more" in text
    assert "rule4" in text
    assert "rule0" not in text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=60))
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    rows = shown(terminal.render_histogram("t", values)).splitlines()[1:]
    pattern = re.compile(r"\s*(-?[\d,]+)(?: – (-?[\d,]+))?\s+(\d+)\b")
    total = 0
    for row in rows:
        match = pattern.match(row)
        assert match, row
        low = int(match[1].replace(",", ""))
        high = int((match[2] or match[1]).replace(",", ""))
        inside = sum(low <= value <= high for value in values)
        assert inside == int(match[3])
        total += inside
    assert total == len(values)


def test_sample_shows_funnel_candidates_and_spreads() -> None:
    study_config = config()
    chosen = [feasible(study_config, seed=seed) for seed in range(12)]
    candidates = [study_config.candidate(c, input=INPUT, classes=CLASSES) for c in chosen]
    acceptance = Acceptance(proposed=40, accepted=12)
    acceptance.rejected.update({"parameters": 28})
    text = shown(terminal.render_sample(acceptance, candidates))
    assert candidates[0].hash[:8] in text
    assert "and 2 more" in text
    assert "receptive field" in text
    assert "70.0 %" in text


def test_sample_explains_its_line_and_tells_twins_apart() -> None:
    study_config = config()
    choices = feasible(study_config, seed=3)
    twins = [
        study_config.candidate({**choices, **changed}, input=INPUT, classes=CLASSES)
        for changed in ({"training.learning_rate": 0.02}, {"training.learning_rate": 0.1})
    ]
    other = study_config.candidate(feasible(study_config, seed=4), input=INPUT, classes=CLASSES)
    assert apart([*twins, other]) == ["learning rate 0.02", "learning rate 0.1", ""]
    text = shown(terminal.render_sample(Acceptance(proposed=2, accepted=2), twins))
    assert "2×sep3d2·64: two units, separable, kernel 3, dilation 2, 64 channels" in text
    assert text.count("learning rate") == 2


def test_sample_lists_a_candidate_once_and_tells_each_share() -> None:
    study_config = config()
    choices = feasible(study_config, seed=3)
    one = study_config.candidate(choices, input=INPUT, classes=CLASSES)
    text = shown(terminal.render_sample(Acceptance(proposed=1_000, accepted=1_000), [one] * 1_000))
    assert text.count(one.hash[:8]) == 1
    assert "more" not in text
    assert re.search(r"accepted +1,000 +100.0 %", text)
    assert not re.search(r"proposed +1,000 +100.0 %", text)


def test_a_histogram_of_few_values_has_a_bar_for_each() -> None:
    assert "1,000" in shown(terminal.render_histogram("RF", [85] * 1_000))
    rows = shown(terminal.render_histogram("RF", [85] * 7 + [69] * 8)).splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["69", "8"], ["85", "7"]]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_width_cuts_names_or_totals(study: optuna.Study, width: int) -> None:
    summary = terminal.summarize(study)
    for view in (terminal.render_status(study), terminal.render_studies([summary])):
        text = shown(view, width)
        assert "…" not in text
        assert summary.name in text
        assert wording.percent(study.best_value) in text
    assert "13 of 40 trials" in shown(terminal.render_status(study), width)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_name_longer_than_the_terminal_takes_more_lines(study: optuna.Study, width: int) -> None:
    name = "-".join(["0123456789"] * 11)
    summary = dataclasses.replace(terminal.summarize(study), name=name)
    text = shown(terminal.render_studies([summary]), width)
    assert max(map(len, text.splitlines())) <= width
    assert name in "".join(line.split(" ")[0] for line in text.splitlines())
    assert "…" not in text
    assert wording.percent(study.best_value) in text


def test_balanced_accuracy_is_called_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config("demo", metric="balanced_accuracy")
    study = build(settings, f"sqlite:///{tmp_path}/demo.db", trials=3, running=1)
    with LiveView(study, settings) as live:
        report(study, 3, 8, 0.8123)
        live._rhythm = Rhythm(0, 0)
        live.update()
    assert "trial 3 epoch 8/16: balanced accuracy 81.23 %" in capsys.readouterr().err
    tables = shown(terminal.render_status(study), 60)
    assert [
        len(re.findall(rf"{title} .*balanced accuracy", tables)) for title in ("Running", "Best")
    ] == [1, 1]
    summary = terminal.summarize(study)
    best = wording.percent(study.best_value)
    assert f"{best} balanced" in shown(terminal.render_studies([summary]))
    goals = overridden(settings, ['study.objectives=["accuracy", "pflop"]', "study.pruner=none"])
    met = replace(summary.best[0], pflop_to_target=0.03)
    told = replace(summary, config=goals, trials=(met,))
    assert f"{best} balanced for 30 TFLOP" in shown(terminal.render_studies([told]))


def test_sample_without_survivors_is_a_funnel_and_the_closest_miss() -> None:
    acceptance = Acceptance()
    for excess in (2.0, 1.0, 3.0):
        broken = Violation("parameters", 9, 1, f"{excess} too many", excess)
        acceptance.add(Proposal({}, None, (broken,)))
    text = re.sub(r" {2,}", "  ", shown(terminal.render_sample(acceptance, [])))
    assert "accepted  0" in text
    assert "closest miss: 1.0 too many" in text


# ----------------------------------------------------------------------------- status


def test_status_agrees_with_optuna(study: optuna.Study) -> None:
    document = terminal.status_json(study)
    json.dumps(document)
    for state in TrialState:
        assert document["trials"][state.name.lower()] == len(study.get_trials(states=[state]))
    assert document["best"]["number"] == study.best_trial.number
    assert document["best"]["accuracy"] == study.best_value
    assert document["trials_left"] == 40 - 13  # one of the 14 failed
    assert document["workers"] == [f"{socket.gethostname()}:{os.getpid()}"]
    assert document["seconds_left"] is None
    proposals = sum(trial.user_attrs["proposals"] for trial in study.trials)
    assert document["proposals"]["proposed"] == proposals


def test_status_shows_running_and_best(study: optuna.Study) -> None:
    text = shown(terminal.render_status(study), 80)
    assert "13 of 40 trials · 2 running" in text
    assert f"#{study.best_trial.number} " in text
    assert wording.percent(study.best_value) in text
    assert "7/16" in text
    assert max(map(len, text.splitlines())) <= 80


def test_status_knows_the_hours_that_are_left(tmp_path: Path) -> None:
    study = build(config(hours=2.0), f"sqlite:///{tmp_path}/h.db", trials=1, running=1)
    study.set_user_attr("clock", {"seconds": 5400.0, "at": time.time()})
    assert terminal.status_json(study)["seconds_left"] == 1800.0
    assert "30:00 of the budget left" in shown(terminal.render_status(study))
    assert f"worker {socket.gethostname()}:{os.getpid()} (cpu)" in shown(
        terminal.render_status(study)
    )


def test_status_of_an_empty_study(tmp_path: Path) -> None:
    empty = build(config("empty"), f"sqlite:///{tmp_path}/e.db", trials=0, running=0)
    text = shown(terminal.render_status(empty))
    assert "nothing proposed yet" in text
    assert "no trial completed yet" in text
    assert terminal.status_json(empty)["best"] is None


# -------------------------------------------------------------------------- live view


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_pipe_is_as_wide_as_is_asked(
    study: optuna.Study,
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal.show(terminal.render_status(study))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("typed", "sure"),
    [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("\x04", False)],
)
def test_a_question_says_what_can_be_answered(
    typed: str, sure: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard, screen = os.openpty()
    os.write(keyboard, typed.encode())
    with os.fdopen(screen) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert terminal.confirmed("Delete study [a] of :100: trials?") is sure
    os.close(keyboard)
    asked = capsys.readouterr()
    assert "Delete study [a] of :100: trials? [y/N] " in asked.err + asked.out


def test_a_width_of_zero_is_none_that_is_known(
    study: optuna.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal.show(terminal.render_status(study))
    expected = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "0")
    terminal.show(terminal.render_status(study))
    assert capsys.readouterr().out == expected


@pytest.fixture(autouse=True)
def _no_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich draws nothing where the tests themselves run in a dumb terminal, as in an editor."""
    monkeypatch.setenv("TERM", "xterm-256color")


def report(study: optuna.Study, number: int, epoch: int, accuracy: float) -> None:
    trial_id = study.trials[number]._trial_id
    study._storage.set_trial_intermediate_value(trial_id, epoch, accuracy)


def test_without_a_terminal_every_event_is_one_timestamped_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = build(config(), f"sqlite:///{tmp_path}/demo.db", trials=3, running=2)
    with LiveView(study, config()) as live:
        report(study, 3, 8, 0.8123)
        study._storage.set_trial_state_values(study.trials[4]._trial_id, TrialState.PRUNED)
        live._rhythm._next = math.inf  # before its time nothing is read
        live.update()
        assert capsys.readouterr().err == ""
        live._rhythm = Rhythm(0, 0)
        live.update()
        live.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\d\d:\d\d:\d\d trial 3 epoch 8/16: accuracy 81.23 %, 1:40 left", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d trial 4 pruned at epoch 7: accuracy .*", lines[1])


def note_moment(study: optuna.Study, number: int, done: float) -> None:
    moment = {"epoch": 8, "phase": "training", "done": done, "images_per_second": 1234}
    study._storage.set_trial_user_attr(study.trials[number]._trial_id, "moment", moment)


def test_a_long_epoch_says_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.display.live.SILENCE", 0.0)
    study = build(config(), f"sqlite:///{tmp_path}/demo.db", trials=1, running=1)
    with LiveView(study, config()) as live:
        for done in (0.25, 0.25, 0.5):  # what is no news is not told
            note_moment(study, 1, done)
            live._rhythm = Rhythm(0, 0)
            live.update()
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    # The epochs so far took 12.5 s each; of 16, there are 8.75 and 8.5 left.
    assert lines == [
        "trial 1 epoch 8/16: training 25 %, 1,234 images/s, 1:49 left",
        "trial 1 epoch 8/16: training 50 %, 1,234 images/s, 1:46 left",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_what_runs_shows_phase_and_speed_at_any_width(tmp_path: Path, width: int) -> None:
    study = build(config(), f"sqlite:///{tmp_path}/demo.db", trials=1, running=1)
    note_moment(study, 1, 0.42)
    rows = shown(terminal.render_status(study), width).splitlines()
    (row,) = (line for line in rows if line.startswith("#1 "))
    assert row.rstrip().endswith("training 42 %     1,234")
    assert "7/16" in row


def test_the_end_leaves_table_reason_and_next_command(
    study: optuna.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    with LiveView(study, config()) as live:
        live.finish("budget ended", "do the next thing")
    captured = capsys.readouterr()
    assert "13 of 40 trials" in captured.out
    assert captured.err.split("\n")[-3:] == ["budget ended", "next: do the next thing", ""]


@pytest.mark.parametrize(("running", "width"), [(0, 80), (2, 60), (30, 60), (30, 80)])
def test_the_live_view_fits_a_small_terminal(tmp_path: Path, running: int, width: int) -> None:
    name = "a-name-as-long-as-names-may-be-" + "x" * 60
    study = build(config(name), f"sqlite:///{tmp_path}/d.db", trials=14, running=running)
    screen = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=24, color_system=None
    )
    with LiveView(study, config(name), screen=screen):
        frame = screen.file.getvalue()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).splitlines()
    assert len(lines) <= 24
    assert any("passed" in line for line in lines), "the last line must not be cropped"
    assert max(map(len, lines)) <= width
    assert name in "".join(map(str.strip, lines))


def test_a_silent_storage_leaves_the_last_picture(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageInternalError("gone")

    screen = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with LiveView(study, config(), screen=screen) as live:
        monkeypatch.setattr("search.display.live.summarize", fail)
        live._answered -= 9
        live._rhythm = Rhythm(0, 0)
        live.update()
    assert live.summary.finished == 14
    drawn = screen.file.getvalue()
    assert "the storage has not answered for 0:09" in drawn


LIVE = """
import sys, time
from search.display.live import LiveView
from search.storage.studies import load_study, study_config
study = load_study("demo", sys.argv[1])
with LiveView(study, study_config(study)) as live:
    for _ in range(3):
        live.update()
        time.sleep(0.4)
    live.finish("done", "next")
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")
@pytest.mark.parametrize("colors", [True, False])
def test_on_a_real_terminal(tmp_path: Path, colors: bool) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    build(config(), url, trials=6, running=1)
    master, slave = os.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**plain, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    if not colors:
        environment["NO_COLOR"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", LIVE, url],
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
        timeout=60,
        check=True,
    )
    os.close(slave)
    drawn = os.read(master, 1 << 20).decode()
    os.close(master)
    assert "Running" in drawn
    assert ("\x1b[1;" in drawn or "\x1b[3" in drawn or "\x1b[38" in drawn) == colors
    final = done.stdout.decode()
    assert "\x1b" not in final, "a pipe gets no colors"
    assert "5 of 40 trials" in final


def test_a_poor_encoding_is_no_error(study: optuna.Study) -> None:
    raw = io.BytesIO()
    output = terminal.console(io.TextIOWrapper(raw, encoding="ascii"))
    output.print(terminal.render_status(study))
    output.file.flush()
    assert b"13 of 40 trials" in raw.getvalue()


def test_long_names_break_behind_a_dot(baseline: Architecture) -> None:
    verdict = check(baseline, LIMITS)
    first, *rest = verdict.analysis.layers
    named = first._replace(name="features.a_very_long_name_of_a_layer.0.another_long_name")
    analysis = replace(verdict.analysis, layers=(named, *rest))
    words = shown(terminal.render_check(replace(verdict, analysis=analysis), LIMITS)).split()
    assert {"features.", "a_very_long_name_of_a_layer.", "0.", "another_long_name"} <= set(words)
