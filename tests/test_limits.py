"""What any rule does; and that a new one, added as the how-to page says, shows everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from constraints import LIMITS, Limit, Limits
from search.config.sections import DEFAULT_LIMITS
from tests.pages import ROOT, blocks

MINE = """
[study]
name = "mine"
target = 0.05
pruner = "none"
failures = 1
[data]
kind = "digits"
[limits]
receptive_field = 20
minimum_depth = 14
[space.block]
depth = [1, 2]
width = 8
operator = ["dense", "separable"]
dilation = [1, 2]
[augmentation]
epochs = 1
hole = 8
[training]
epochs = 1
"""

# Typed one after the other in one process; what each face shows goes to a file as JSON.
FACES = """
import contextlib, io, json, pathlib
from run_study import run
from search import Study, check
from search.display.dashboard.notes import study_note, trial_note
from search.display.notebook import html
from search.storage.summary import summarize
from datetime import datetime
from search.data.augmentation import AugmentedEpochs

AugmentedEpochs.start = lambda *_: None  # epochs are made as they are needed, by this process
faces, codes = {}, {}

def typed(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        codes[words[0]] = run([*words])
    return out.getvalue()

faces["sample"] = typed("sample", "mine.toml", "-n", "300")
faces["sample --json"] = typed("sample", "mine.toml", "-n", "300", "--json")
for name, options in {"check": [], "check --json": ["--json"]}.items():
    faces[name] = typed("check", "studies/baseline.json", "--limits", "mine.toml", *options)
study = Study("mine.toml")
study.create()
study.work(device="cpu")
summary = summarize(study.load())
faces["status"], faces["status --json"] = typed("status", "mine"), typed("status", "mine", "--json")
faces["check trial"] = typed("check", "mine:0")
rejected = check(study.architecture(), study.config.rules.from_mapping({"minimum_depth": 99}))
faces["notes"] = study_note(summary, 1, datetime.now())
faces["notes"] += trial_note(study.architecture(), study.config.rules)
faces["notebook"] = html(study.config.rules) + html(rejected) + html(study.estimate())
bundle = study.export(pathlib.Path("bundle"), retrain=False, device="cpu")
faces["report"] = (bundle / "README.md").read_text()
faces["verify"] = typed("verify", "bundle")
pathlib.Path("faces.json").write_text(json.dumps([faces, codes]))
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each face shows where `constraints.py` also has the page's limit."""
    house = tmp_path_factory.mktemp("house")
    (block,) = (b for b in blocks(ROOT / "docs" / "howto.md", "python") if "(AtLeast)" in b)
    page_class = block.split("\n\n\nrules = ")[0]
    shutil.copytree(ROOT / "search", house / "search")
    shutil.copytree(ROOT / "studies", house / "studies", ignore=shutil.ignore_patterns("*.db*"))
    for name in ("space.py", "run_study.py", "constraints.py"):
        shutil.copy(ROOT / name, house)
    with (house / "constraints.py").open("a") as sheet:
        sheet.write(f"\n\n{page_class}\n")
    (house / "mine.toml").write_text(MINE)
    subprocess.run([sys.executable, "-c", FACES], cwd=house, check=True, timeout=300)
    shown, codes = json.loads((house / "faces.json").read_text())
    assert codes["verify"] == 0
    assert isinstance(shown, dict)
    return shown


@pytest.mark.parametrize(
    ("face", "words"),
    [
        ("check", "✓ minimum depth at least 14: 14"),
        ("check trial", "✓ minimum depth at least 14: "),
        ("sample", "✗ minimum depth"),
        ("status", "✗ minimum depth"),
        ("notes", "- minimum depth at least 14\n"),
        ("notes", "✓ | &ensp;minimum depth at least 14 | &ensp;"),
        ("notes", "✗ minimum depth"),
        ("report", "| minimum depth at least 14 | "),
        ("verify", "minimum depth at least 14: "),
        ("notebook", "minimum depth at least 14"),
        ("notebook", "✗ minimum depth: at least 99 convolutions needed, but got "),
        ("notebook", "✗ minimum depth</td>"),
    ],
)
def test_a_new_limit_shows_on_every_face(faces: dict[str, str], face: str, words: str) -> None:
    assert words in faces[face]


def test_a_new_limit_stands_in_every_document(faces: dict[str, str]) -> None:
    assert json.loads(faces["sample --json"])["rejected"]["minimum_depth"] > 0
    assert json.loads(faces["status --json"])["proposals"]["rejected"]["minimum_depth"] > 0
    assert "minimum_depth" not in {
        broken["rule"] for broken in json.loads(faces["check --json"])["violations"]
    }


def rule(name: str, value: int) -> Limit:
    (only,) = Limits.from_mapping({name: value}).rules
    return only


def test_rules_say_the_comparison_they_make() -> None:
    assert str(rule("receptive_field", 44)) == "receptive field > 44"
    assert str(rule("parameters", 200_000)) == "parameters < 200,000"
    assert str(rule("downsampling", 3)) == "downsampling exactly 3"
    assert str(rule("depthwise_separable", 1)) == "depthwise separable at least 1"
    assert str(rule("depth", 20)) == "depth at most 20"
    assert LIMITS["macs"].words == "MACs"


@pytest.mark.parametrize(
    ("name", "weaker"),
    [
        ("receptive_field", range(1, 44)),
        ("parameters", range(200_001, 200_040)),
        ("downsampling", (0, 1, 2, *range(4, 43))),
        ("depthwise_separable", ()),
        ("dilated", ()),
    ],
)
def test_what_asks_less_than_the_assignment(name: str, weaker: Sequence[int]) -> None:
    usual = rule(name, DEFAULT_LIMITS[name])
    around = range(max(usual.lowest, usual.value - 43), usual.value + 40)
    assert [value for value in around if rule(name, value).asks_less(usual)] == list(weaker)
