"""A toy of each kind, added where the docstring of its room says, shows on every face."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.networks.test_operators import ADDED
from tests.pages import ROOT, blocks

MINE = """
[study]
name = "mine"
sampler = "toy"
seed = 2  # its first proposals are rejected
target = 0.05
pruner = "none"
failures = 1
[data]
kind = "stripes"
[limits]
receptive_field = 20
minimum_depth = 14
[space.block]
depth = [1, 2]
width = 8
operator = "fused"
dilation = [1, 2]
[space.C4]
operator = "separable"
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

faces, codes = {}, {}

def typed(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        codes[words[0]] = run([*words])
    return out.getvalue()

faces["sample"] = typed("sample", "mine.toml", "-n", "300")
faces["sample --json"] = typed("sample", "mine.toml", "-n", "300", "--json")
for name, options in {"check": [], "check --json": ["--json"]}.items():
    faces[name] = typed("check", "studies/baseline.json", "--limits", "mine.toml", *options)
deeper = pathlib.Path("deeper.toml")
deeper.write_text(pathlib.Path("mine.toml").read_text().replace("= 14", "= 99"))
faces["broken"] = typed("check", "studies/baseline.json", "--limits", "deeper.toml", "--json")
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
faces["code"] = (bundle / "model.py").read_text()
faces["verify"] = " ".join(typed("verify", "bundle").split())  # wherever lines are broken
pathlib.Path("faces.json").write_text(json.dumps([faces, codes]))
"""


# What each toy adds to which file of the house: a new file, or lines behind those named.
STRIPES = """
import numpy as np
from search.data.images import Images
from search.data.sources import Source

class Stripes(Source):
    kind = "stripes"

    def describe(self):
        return (self.channels, 32, 32), 2

    def read(self, part):
        rng = np.random.default_rng(len(part))
        labels = np.arange(80 if part == "train" else 40) % 2
        pixels = rng.integers(0, 128, (len(labels), 32, 32, self.channels), dtype=np.uint8)
        pixels[labels == 0, ::2] += 100
        pixels[labels == 1, :, ::2] += 100
        return Images(pixels, labels), ("across", "down")
"""
TOY = """
import random
from optuna.distributions import CategoricalDistribution, IntDistribution
from search.proposals.inner import InnerSampler

class Toy(InnerSampler):
    name = "toy"

    def __init__(self, seeds, proposals):
        self._rng = random.Random(seeds.trial)

    def sample_relative(self, study, trial, search_space):
        return {name: self._at(domain) for name, domain in search_space.items()}

    def _at(self, domain):
        if isinstance(domain, CategoricalDistribution):
            return self._rng.choice(domain.choices)
        if isinstance(domain, IntDistribution):
            return self._rng.randrange(domain.low, domain.high + 1, domain.step)
        return self._rng.uniform(domain.low, domain.high)
"""
TOLD = """
from search.bundles.parts.part import Part

class Told(Part):
    names = ("rules.txt",)

    @classmethod
    def write(cls, findings):
        return {"rules.txt": "\\n".join(map(str, findings.config.rules.rules)).encode()}

    @property
    def looks(self):
        return {"rules.txt": self._count}

    def _count(self):
        return f"{len(self.bundle.files['rules.txt'].splitlines())} rules are told"
"""
BEHIND = {
    "search/networks/operators.py": {"": ADDED},
    "search/data/datasets.py": {"": "\nfrom search.data import stripes\n"},
    "search/proposals/sampler.py": {
        "": """
from search.proposals.toy import Toy
SAMPLERS[Toy.name] = Toy
"""
    },
    "search/bundles/parts/every.py": {
        "": "\nfrom search.bundles.parts.told import Told\n\nPARTS += (Told,)\n"
    },
}


def _add(house: Path) -> None:
    (house / "search" / "data" / "stripes.py").write_text(STRIPES)
    (house / "search" / "proposals" / "toy.py").write_text(TOY)
    (house / "search" / "bundles" / "parts" / "told.py").write_text(TOLD)
    (block,) = (b for b in blocks(ROOT / "docs" / "howto.md", "python") if "(AtLeast)" in b)
    limit = block.split("\n\n\nrules = ")[0]
    for name, additions in {**BEHIND, "constraints.py": {"": f"\n\n{limit}\n"}}.items():
        text = (house / name).read_text()
        for line, added in additions.items():
            assert not line or text.count(line) == 1, f"{name} has {line!r} no more"
            text = text.replace(line, line + added) if line else text + added
        (house / name).write_text(text)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each face shows in a house to which the toys are added."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "search", house / "search")
    shutil.copytree(ROOT / "studies", house / "studies", ignore=shutil.ignore_patterns("*.db*"))
    for name in ("space.py", "run_study.py", "constraints.py"):
        shutil.copy(ROOT / name, house)
    _add(house)
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
    kept, broken = (json.loads(faces[face])["violations"] for face in ("check --json", "broken"))
    assert "minimum_depth" not in {violation["rule"] for violation in kept}
    (told,) = (violation for violation in broken if violation["rule"] == "minimum_depth")
    assert (told["found"], told["limit"]) == (14, 99)


@pytest.mark.parametrize(
    ("face", "words"),
    [
        ("sample", "fused fused"),
        ("sample", "fused3"),
        ("notes", "fused3"),
        ("code", "class FusedBottleneck(nn."),
        ("report", "`stripes`: "),
        ("report", "| across | 20 | "),
        ("verify", "✓ accuracy: "),
        ("report", "sampler `toy` picked 1 for training"),
        ("verify", "✓ rules.txt: 6 rules are told"),
    ],
)
def test_a_new_operator_data_set_sampler_and_part_show(
    faces: dict[str, str], face: str, words: str
) -> None:
    assert words in faces[face]
