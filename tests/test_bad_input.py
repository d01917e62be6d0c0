"""Everything that a user can get wrong: exit 2, one line that names it, and nothing made."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import optuna
import pytest
from PIL import Image

from run_study import run
from search.config.files import load
from search.storage.studies import create_or_resume, study_storage
from tests.conftest import STUDIES

ROOT = STUDIES.parent
QUICK = "studies/quickstart.toml"
FACTORY = """
import torch

def network():
    return torch.nn.Conv2d(3, 8, 3)

def number():
    return 3

def broken():
    raise RuntimeError("no such weights")
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line, the words of its answer, and the file that it reads.

    `late` ones need torch to be found.
    """

    arguments: tuple[str, ...]
    words: tuple[str, ...]
    name: str = ""
    content: str | bytes = ""
    late: bool = False


def line(*arguments: str, says: str | tuple[str, ...], late: bool = False) -> Case:
    return Case(arguments, (says,) if isinstance(says, str) else says, late=late)


def keys(text: str, *words: str) -> Case:
    """A study file that holds `text`."""
    name = f"study-{zlib.crc32(text.encode()):08x}.toml"
    return Case(("launch", name), (name, *words), name, '[study]\nname = "s"\n' + text)


def changed(*settings: str, says: tuple[str, ...]) -> Case:
    return line("launch", QUICK, *(p for s in settings for p in ("--set", s)), says=says)


def layer(key: str, value: object) -> Case:
    """The baseline with another value in its first layer."""
    content = json.loads((STUDIES / "baseline.json").read_text())
    content["blocks"][0]["units"][0]["layers"][0][key] = value
    name = f"{key}-{value}.json"
    return Case(("check", name), (name, key, str(value)), name, json.dumps(content))


def images(folder: str, *words: str, hole: int = 6) -> Case:
    settings = (
        f"augmentation.hole={hole}",
        "data.kind=imagefolder",
        f"data.root={folder}",
        "data.validation=0.2",
        "study.name=images",
    )
    return changed(*settings, says=words)


CASES = {
    "command": line("lunch", QUICK, says="lunch"),
    "option": line("launch", QUICK, "--wrkers", "2", says="--wrkers"),
    # Study files
    "missing file": line("launch", "studies/none.toml", says="studies/none.toml: no such"),
    "directory": line("launch", "studies", says="studies: is a directory"),
    "binary": Case(("launch", "b.toml"), ("b.toml", "not a text"), "b.toml", bytes(range(256))),
    "unknown key": keys("[space]\nwidht = 3", "space.widht", "unknown key"),
    "unknown key, near": keys("[training]\nepoch = 3", "training.epoch:", "mean epochs?"),
    "unknown key, set": changed("space.C2.widht=8", says=("space.C2.widht", "mean width?")),
    "unknown section": keys("[spaces]\nhead = 3", "spaces", "did you mean space?"),
    "unknown limit": keys("[limits]\nparamters = 3", "paramters", "parameters"),
    "duplicate key": keys("[data]\nseed = 1\nseed = 2", "seed = 2"),
    "syntax": keys("[space\nhead = 3", "line 3", "[space"),
    "no part of a key": changed("study..name=8", says=("study..name", "section.key=value")),
    "no value": changed("space.C2.width", says=("space.C2.width", "section.key=value")),
    "text for a number": keys('[training]\nepochs = "ten"', "training.epochs", "'ten'"),
    "lr nan": keys("[training]\nlearning_rate = nan", "training.learning_rate", "nan"),
    "lr inf": keys("[training]\nlearning_rate = inf", "training.learning_rate", "inf"),
    "lr 0": keys("[training]\nlearning_rate = 0.0", "training.learning_rate", "0.0"),
    "lr -0.1": keys("[training]\nlearning_rate = -0.1", "training.learning_rate", "-0.1"),
    "low > high": keys(
        "[training]\nlearning_rate = {low = 0.5, high = 0.1}",
        *("training.learning_rate", "low=0.5", "high=0.1"),
    ),
    "log from 0": keys(
        "[training]\nweight_decay = {low = 0.0, high = 0.1, log = true}",
        *("training.weight_decay", "log range"),
    ),
    "nan bound": keys("[training]\nmomentum = {low = nan, high = 0.9}", "training.momentum", "nan"),
    "no choices": keys("[training]\nbatch_size = []", "training.batch_size"),
    "channels 10^9": keys("[space.C2]\nwidth = 1000000000", "space.C2.width", "1000000000"),
    "depth 10^6": keys("[space.block]\ndepth = 1000000", "space.block.depth", "1000000"),
    "channels 0": keys("[space.block]\nwidth = 0", "space.block.width", "0"),
    "channels -4": keys("[space.block]\nwidth = -4", "space.block.width", "-4"),
    "channels 3.5": keys("[space.block]\nwidth = 3.5", "space.block.width", "3.5"),
    "kernel 0": keys("[space.block]\nkernel = 0", "space.block.kernel", "0"),
    "kernel -3": keys("[space.block]\nkernel = -3", "space.block.kernel", "-3"),
    "kernel 99": keys("[space.block]\nkernel = 99", "space.block.kernel", "99"),
    "dilation -1": keys("[space.block]\ndilation = -1", "space.block.dilation", "-1"),
    "dilation 0": keys("[space.block]\ndilation = 0", "space.block.dilation", "0"),
    "trials 0": keys("trials = 0", "study.trials", "0"),
    "trials -1": line("launch", QUICK, "--trials", "-1", says="--trials"),
    "workers 0": line("launch", QUICK, "--workers", "0", says="--workers"),
    "epochs 0": keys("[training]\nepochs = 0", "training.epochs", "0"),
    "batch -1": keys("[training]\nbatch_size = -1", "training.batch_size", "-1"),
    "target 2": keys("target = 2.0", "study.target", "2.0"),
    "sampler": changed("study.sampler=tep", says=("study.sampler", "'tep'", "mean tpe?")),
    "tracker": changed("study.track=['neptune']", says=("study.track", "'neptune'", "mlflow")),
    "two goals pruned": keys(
        'objectives = ["accuracy", "macs"]\npruner = "asha"', "objectives", "pruner"
    ),
    "cost without an end": keys(
        'objectives = ["accuracy", "pflop"]\npruner = "none"', "pflop", "target is not set"
    ),
    "sampler for other spaces": changed(
        "study.name=other",
        "study.sampler=cmaes",
        'study.objectives=["accuracy", "macs"]',
        "study.pruner=none",
        says=("study.sampler", "cmaes takes one objective"),
    ),
    # Names
    **{
        f"name {name[:9]!r}": changed(f"study.name={json.dumps(name)}", says=("study.name", words))
        for name, words in {
            "": "must not be empty",
            "a\0b": r"'a\x00b'",
            "a\nb": r"'a\nb'",
            "../up": "'../up'",
            "a..b": "'a..b'",
            ".hidden": "begin with a letter",
            "Grüße": "letters (a to z)",
            "x.toml": "must not end in .toml",
            "x" * 600: "at most 100",
        }.items()
    },
    "status of a path": line("status", "../up", says=("'../up'", "begin with a letter")),
    "status of nothing": line("status", "nothing", says="nothing"),
    # What is in the database
    "choices on resume": changed("space.C2.width=[8, 16]", says=("space.C2.width", "resume")),
    "direction on resume": changed(
        'study.objectives=["accuracy", "macs"]', "study.pruner=none", says=("objectives", "resume")
    ),
    "no URL": line("launch", QUICK, "--storage", "studies.db", says="storage"),
    "another database": line("launch", QUICK, "--storage", "oracle://x/y", says="oracle"),
    "missing folder": line(
        "launch", QUICK, "--storage", "sqlite:///none/a.db", says="directory none does not exist"
    ),
    "folder": line("launch", QUICK, "--storage", "sqlite:///studies", says="is a directory"),
    "status of a folder": line(
        "status", "quickstart", "--storage", "sqlite:///studies", says="is a directory"
    ),
    "no database": line("launch", QUICK, "--storage", "sqlite:///text.db", says="text.db is not a"),
    "password": line(
        "launch", QUICK, "--storage", "postgresql://a:s3cr3t@h/d", says=("password", "PGPASSFILE")
    ),
    **{
        f"password {name}": line(*words, says=("password", "STUDY_STORAGE"))
        for name, words in {
            "attached": ("launch", QUICK, "--storage=postgresql://a:s3cr3t@h/d"),
            "in a query": ("status", "s", "--storage", "postgresql://h/d?password=s3cr3t"),
            "with an @": ("status", "s", "--storage", "postgresql://a:b@s3cr3t@h/d"),
            "at [::1]": ("status", "s", "--storage", "mysql://a:s3cr3t@[::1]/d"),
            "set": ("launch", QUICK, "--set", "study.storage=postgresql://a:s3cr3t@h/d"),
            "quoted": ("doctor", QUICK, "--set", "study.storage='postgresql://a:s3cr3t@h/d'"),
            "of a table": ("sample", QUICK, "--set", "study={storage='pg://a:s3cr3t@h/d'}"),
            "as a name": ("status", "postgresql://a:s3cr3t@h/d"),
            "misspelled": ("launch", QUICK, "--storge=postgresql://a:s3cr3t@h/d"),
        }.items()
    },
    "password in TOML": keys('storage = "postgresql://a:s3cr3t@h/d', "Unterminated string"),
    "password, no quotes": keys("storage = postgresql://a:s3cr3t@h/d", "line 3"),
    "password, list": keys('storage = ["postgresql://a:s3cr3t@h/d"]', "study.storage"),
    "password, name": keys('[data]\nroots = "p://a:s3cr3t@h/d"', "data.roots"),
    "password, number": keys('trials = "postgresql://a:s3cr3t@h/d"', "study.trials", "***"),
    "password, long": keys(f'trials = "postgresql://a:s3cr3t{"x" * 99}@h/d"', "study.trials"),
    "ray": line("launch", QUICK, "--ray", "somewhere", says=("--ray somewhere", "HOST:PORT")),
    "token": line("dashboard", "done", "--token", "a-token-of-mine-0", says="unexpected"),
    # What is exported and verified
    "nothing completed": line(
        "export", "quickstart", says=("quickstart", "no trial has completed yet"), late=True
    ),
    "target exists": line("export", "done", "--out", "studies", says="studies: exists", late=True),
    "target in a file": line(
        "export", "done", "--out", f"{QUICK}/x", says=f"{QUICK}: is no directory", late=True
    ),
    "init of no study file": line("init", "mine.json", says="mine.json: must end in .toml"),
    "no module to train": line(
        *("launch", QUICK, "--set", "study.name=fresh", "--module", "nothing"),
        says=("'nothing'", "file.py:factory"),
        late=True,
    ),
    "init in a file": line("init", f"{QUICK}/x.toml", says=f"{QUICK}: is there already"),
    "target not writable": line(
        "export", "done", "--out", "/proc/none/x", says="/proc/none/x", late=True
    ),
    "no such trial": line("export", "done", "--trial", "7", says="trial 7", late=True),
    "no bundle": line("verify", "exports/none", says="exports/none", late=True),
    # Networks
    **{
        f"layer {key} {value}": layer(key, value)
        for key, value in (
            *(("out_channels", value) for value in (0, -4, 3.5, 10**9)),
            *(("kernel", value) for value in (0, -3, 99)),
            *(("dilation", value) for value in (0, -1)),
            *(("stride", 0), ("padding", -1), ("padding", 10**6), ("groups", 5)),
        )
    },
    "no architecture": line("check", "none.json", says="none.json"),
    "folder checked": line("check", "studies", says="studies"),
    "text checked": line("check", "factory.py", says="factory.py:NAME"),
    "brackets": Case(("check", "deep.json"), ("deep.json",), "deep.json", "[" * 100_000),
    "digits": Case(("check", "digits.json"), ("digits.json",), "digits.json", "9" * 5_000),
    "input": line("check", "studies/baseline.json", "--input", "3,x", says="--input 3,x"),
    "huge input": line(
        "check", "studies/baseline.json", "--input", "3,999999999,9", says="--input 3,999999999,9"
    ),
    "two forms": line("check", "studies/baseline.json", "--json", "--csv", says="--json and --csv"),
    "axes": line("check", "studies/baseline.json", "--input", "3,32", says="--input"),
    "no factory": line("check", "factory.py:nothing", says="nothing", late=True),
    "no module": line("check", "factory.py:number", says="nn.Module", late=True),
    "raises": line("check", "factory.py:broken", says="no such weights", late=True),
    "huge module": line(
        "check", "factory.py:network", "--input", f"3,{10**12},9", says="--input", late=True
    ),
    "broken file": Case(
        ("check", "broken.py:network"),
        ("unheard_of",),
        "broken.py",
        "import unheard_of",
        late=True,
    ),
    "no package": line("check", "nothing_there.at_all:f", says="nothing_there", late=True),
    # Images
    "mixed sizes": images("mixed", "wide.png: 20x12 pixels", "data.image_size"),
    "class without images": images("empty", "eel: a class without images"),
    "truncated image": images("truncated", "3.png: not a readable image"),
    "hole": images(
        "small", "augmentation.hole = 16", "12x12 pixels", "augmentation.hole=6", hole=16
    ),
    "unknown data": changed("data.kind=cifar11", says=("data.kind", "'cifar11'", "mean cifar10?")),
    "unknown name": changed(
        "data.kind=torchvision", "data.name=MNISTT", says=("data.name", "FashionMNIST", "'MNISTT'")
    ),
}


def _images(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (12, 12), (index,) * 3).save(root / "train" / name / f"{index}.png")


def _candidate() -> dict[str, Any]:
    """What a trial notes about its candidate."""
    config = load(STUDIES / "quickstart.toml")
    rng = random.Random(0)
    choices = {name: domain.sample(rng) for name, domain in config.parameters.items()}
    candidate = config.candidate(choices, input=(3, 32, 32), classes=10)
    recipe = dataclasses.asdict(candidate.recipe)
    return {
        "architecture": candidate.architecture.to_json(),
        "recipe": recipe,
        "verdict": "accepted",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that the cases read, and studies with and without a finished trial."""
    for module in (
        "search.bundles.export",
        "search.analysis.tracing.trace",
        "search.bundles.verify",
    ):
        importlib.import_module(module)  # or the first case would pay for torch
    place = tmp_path_factory.mktemp("bad")
    (place / "studies").mkdir()
    for file in ("quickstart.toml", "baseline.json"):
        shutil.copy(STUDIES / file, place / "studies")
    for case in CASES.values():
        if case.name:
            content = case.content
            (place / case.name).write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
    (place / "factory.py").write_text(FACTORY)
    (place / "text.db").write_text("this is no database, but long enough to be looked into")
    for folder in ("mixed", "empty", "truncated", "small"):
        _images(place / folder)
    Image.new("RGB", (20, 12)).save(place / "mixed" / "train" / "cat" / "wide.png")
    (place / "empty" / "train" / "eel").mkdir()
    (place / "truncated" / "train" / "cat" / "3.png").write_bytes(b"\x89PNG")
    for name in ("quickstart", "done"):
        config = load(STUDIES / "quickstart.toml", [f"study.name={name}"])
        study = create_or_resume(config, f"sqlite:///{place}/studies/{name}.db")
        if name == "done":
            study.add_trial(optuna.create_trial(value=0.9, user_attrs=_candidate()))
        study_storage(study).engine.dispose()
    return place


def _made(place: Path) -> set[Path]:
    # Locks stay beside what they protect, and a database has its log for a while.
    passing = (".lock", ".db-wal", ".db-shm")
    found = (p for p in place.rglob("*") if "__pycache__" not in p.parts)
    return {path for path in found if not path.name.endswith(passing)}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_exit_2_and_one_line(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    monkeypatch.chdir(place)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    before = _made(place)
    assert run(list(case.arguments)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if line.startswith("run_study: ")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in case.words), lines[0]
    assert len(lines[0]) < 600
    assert "s3cr3t" not in output.err
    assert _made(place) == before


def test_bad_input_is_found_before_torch_is_imported(place: Path) -> None:
    """Its import alone takes longer than an answer may."""
    lines = [case.arguments for case in CASES.values() if not case.late]
    program = (
        "import json, sys; from run_study import run\n"
        "for arguments in json.loads(sys.stdin.read()):\n"
        "    code = run(arguments)\n"
        "    assert code == 2 and 'torch' not in sys.modules, (code, arguments)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(lines),
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr.splitlines()[-1]
