from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from run_study import app, run
from search.commands import networks
from search.config.files import overridden
from tests.conftest import STUDIES
from tests.synthetic_study import build, config

ROOT = STUDIES.parent
FACTORY = """
import torch

def network():
    print("noise of the user's own")
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1))
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own, with the study files and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    (tmp_path / "studies").mkdir()
    for file in STUDIES.glob("*"):
        if file.suffix in (".toml", ".json"):
            shutil.copy(file, tmp_path / "studies")
    (tmp_path / "factory.py").write_text(FACTORY)
    return tmp_path


def _files(folder: Path) -> set[Path]:
    caches = {"__pycache__", ".pytest_cache"}
    return {p for p in folder.rglob("*") if not caches & set(p.parts)}


QUICK = "studies/quickstart.toml"


def test_missing_data_is_exit_3_and_makes_no_study(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(place)
    arguments = ["launch", "studies/cifar10.toml", "--set", "data.kind=imagefolder"]
    assert run([*arguments, "--set", "data.root=images"]) == 3
    assert "data.root=DIR" in capsys.readouterr().err
    assert _files(place) == before


def test_the_end_of_a_file_is_no_end_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(*_: object, **__: object) -> int:
        raise EOFError("no data left in file")

    monkeypatch.setattr(networks, "sample", cut_off)
    assert run(["sample", QUICK]) == 3
    assert "run_study: EOFError: no data left in file" in capsys.readouterr().err


def test_the_baseline_breaks_one_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "studies/baseline.json", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["parameters"], document["macs"]) == (186_570, 23_143_552)
    assert document["receptive_field"] == {"height": 61, "width": 61}
    assert [violation["rule"] for violation in document["violations"]] == ["downsampling"]
    assert len(document["layers"]) == 15
    assert {"name", "kind", "n_in", "r_out", "j_out", "parameters"} <= set(document["layers"][0])


def test_check_takes_any_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "factory.py:network", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == 8 * 27 + 8
    assert document["receptive_field"] == {"height": 3, "width": 3}


def test_check_takes_another_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "studies/baseline.json", "--input", "3,64,64", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["layers"][0]["n_in"] == 64
    assert document["layers"][0]["macs"] == 64 * 64 * 27 * 32
    assert run(["check", "studies/baseline.json", "--input", "1,32,32"]) == 2


def test_check_takes_the_limits_of_a_study(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = place / "mine.toml"
    study.write_text('[study]\nname = "mine"\n[limits]\ndownsampling = 2\n')
    run(["check", "studies/baseline.json", "--limits", str(study), "--json"])
    rules = [v["rule"] for v in json.loads(capsys.readouterr().out)["violations"]]
    assert "parameters" not in rules


def test_check_changes_the_limits_that_a_trial_came_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = overridden(config(), ["limits.receptive_field=off", "limits.macs=999_999_999"])
    build(own, "sqlite:///studies/demo.db", trials=1, running=0)
    for changes in ([], ["--set", "limits.depth=999"]):
        assert run(["check", "demo:0", *changes]) == 0
        verdict = capsys.readouterr().out
        assert "✓ MACs < 999,999,999" in verdict
        assert "receptive field >" not in verdict
    assert "✓ depth at most 999" in verdict


def test_no_hours_are_no_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["launch", QUICK, "--hours", "0"]) == 2
    assert "study.hours" in capsys.readouterr().err


def test_sample_counts_what_it_rejects(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", QUICK, "-n", "300", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["proposed"] == 300
    assert document["accepted"] == len(document["candidates"]) > 0
    assert document["accepted"] + sum(document["rejected"].values()) >= 300


def test_infeasible_limits_are_exit_1_and_make_no_study(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(place)
    arguments = ["launch", QUICK, "--set", "limits.parameters=100"]
    assert run([*arguments, "--set", "study.proposals=300"]) == 1
    output = capsys.readouterr().err
    assert "parameters rejects 100.0%" in output
    assert _files(place) == before


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "studies/cifar10.toml", "--json"]) == 3
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["device"]["ok"]
    assert not findings["data"]["ok"]
    assert "--set data.root" in findings["data"]["mend"]


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        (["data.kind=torchvision", "data.name=MNISTT"], ""),
        (["data.kind=npz", "data.root=floats.npz"], ""),
        (["data.kind=npz", "data.root=nowhere.npz"], "--set data.root=FILE.npz"),
        (["data.kind=imagefolder", "data.root=nowhere"], "--set data.root=DIR"),
    ],
)
def test_doctor_sends_nobody_to_another_folder_where_none_would_help(
    settings: list[str],
    mend: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = np.full((4, 32, 32), 0.5)
    np.savez("floats.npz", x_train=half, y_train=[0, 1] * 2, x_test=half, y_test=[0, 1] * 2)
    changes = [word for each in settings for word in ("--set", each)]
    assert run(["doctor", QUICK, "--json", *changes]) == 3
    (found,) = (f for f in json.loads(capsys.readouterr().out) if f["name"] == "data")
    assert not found["ok"]
    assert found["mend"] == mend


def test_doctor_looks_whether_an_export_could_read_the_test_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8), [0, 1] * 10
    np.savez("small.npz", x_train=images, y_train=labels, x_test=images[:, :9], y_test=labels)
    changes = ["--set", "data.kind=npz", "--set", "data.root=small.npz"]
    assert run(["doctor", QUICK, "--json", *changes]) == 3
    (found,) = (f for f in json.loads(capsys.readouterr().out) if f["name"] == "data")
    assert "test images (height, width, channels) are (9, 32, 1)" in found["detail"]


COMMANDS: Any = typer.main.get_command(app)


@pytest.mark.parametrize("command", COMMANDS.commands)
def test_help_of_every_command_has_an_example_that_it_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    _, example = shown.split("Example: run_study.py ")
    name, *arguments = shlex.split(example)
    assert name == command
    COMMANDS.commands[command].make_context(command, arguments)


COMMAND = [sys.executable, str(ROOT / "run_study.py")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("check", "studies/baseline.json"),
        ("check", "studies/baseline.json", "--json"),
        ("check", "studies/baseline.json", "--csv"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_verdict(arguments: tuple[str, ...], unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("arguments", "code"), [(("check", "none.json"), 2), (("lunch",), 2), (("list",), 3)]
)
def test_where_nobody_can_be_told_the_code_tells(arguments: tuple[str, ...], code: int) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == code


def test_an_interrupt_while_it_starts_leaves_no_traceback(place: Path) -> None:
    (place / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": str(place)}
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path[1:1] = [{str(ROOT)!r}]; import run_study",
    ]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_command_starts_without_what_others_need() -> None:
    code = "import sys, run_study; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    loaded = set(found.stdout.decode().split())
    assert {"typer", "search"} <= loaded
    assert not loaded & {"numpy", "optuna", "pydantic", "sqlalchemy", "torch", "space"}


def test_the_main_job(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Study file, candidates, trials, target, status, export and verify: once each as a process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "run_study", *arguments]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    values = ("study.target=0.8", "training.epochs=4", "data.image_size=16")
    changes = [word for value in values for word in ("--set", value)]
    call("launch", QUICK, *changes)
    report = json.loads(call("status", "quickstart", "--json"))
    assert report["target_met"]
    assert report["best"]["accuracy"] >= 0.8
    assert report["best"]["parameters"] < 200_000
    assert report["best"]["receptive_field"] > 44
    number = report["best"]["number"]
    verdict = told("check", f"quickstart:{number}")
    assert verdict["accepted"]
    assert verdict["parameters"] == report["best"]["parameters"]
    assert run(["launch", QUICK, *changes]) == 0  # met already: nothing is trained again
    assert told("status", "quickstart")["trials"] == report["trials"]
    call("export", "quickstart", "--out", "bundle", "--no-retrain")
    call("verify", "bundle")
    assert run(["export", "quickstart", "--out", "bundle"]) == 2
