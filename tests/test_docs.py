"""What the documentation says can be typed, is there, and is so."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from docs import make_figures, make_reference
from run_study import app, run
from search.config import parse
from tests.conftest import STUDIES

ROOT = STUDIES.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (["python", "run_study.py"], ["c1c4-search"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line of a console block, the arguments it gives to the program, and what it printed."""

    page: str
    arguments: tuple[str, ...]
    output: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.arguments)}"


def _blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def _commands() -> Iterator[Command]:
    for page in PAGES:
        for block in _blocks(page, "console", "sh"):
            for part in re.split(r"^(?=\$ |python run_study)", block, flags=re.MULTILINE):
                line, *output = part.removeprefix("$ ").splitlines() or [""]
                words = shlex.split(line, comments=True)
                for program in PROGRAMS:
                    if words[: len(program)] == program:
                        yield Command(page.name, tuple(words[len(program) :]), tuple(output))


COMMANDS = list(dict.fromkeys(_commands()))


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_command_line_takes_it(command: Command) -> None:
    group: Any = typer.main.get_command(app)
    name, *arguments = command.arguments
    if name != "--help":
        group.commands[name].make_context(name, arguments)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial's reader is before the first training: images and study files."""
    place = tmp_path_factory.mktemp("reader")
    (place / "studies").mkdir()
    for file in (*STUDIES.glob("*.toml"), STUDIES / "baseline.json"):
        shutil.copy(file, place / "studies")
    page = ROOT / "docs" / "tutorial.md"
    for block in _blocks(page, "python", "toml"):
        name = re.match(r"# (\S+\.(?:py|toml))", block)
        assert name, "a file of the tutorial must begin with its name"
        (place / name[1]).write_text(block)
    arguments = [sys.executable, "make_shapes.py", "shapes"]
    subprocess.run(arguments, cwd=place, check=True, timeout=120)
    return place


def _is_cheap(command: Command) -> bool:
    name, *arguments = command.arguments
    stored = any(re.fullmatch(r"\w+:\d+", word) for word in arguments)
    return name in ("check", "sample", "doctor") and not stored


@pytest.mark.parametrize("command", [c for c in COMMANDS if _is_cheap(c)], ids=str)
def test_it_does_what_the_page_shows(
    command: Command,
    tutorial: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tutorial)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    code = run(list(command.arguments))
    printed = capsys.readouterr()
    assert code in ((0, 3) if command.arguments[0] == "doctor" else (0, 1))
    assert "run_study: " not in printed.err
    if command.arguments[0] != "doctor":  # its answer is about the machine
        lines = {line.rstrip() for line in printed.out.splitlines()}
        assert [line for line in command.output if line not in {*lines, "…"}] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in {_slug(line) for line in file.read_text().splitlines()}, anchor


def _slug(line: str) -> str:
    return re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


def test_the_reference_is_what_the_code_says() -> None:
    assert make_reference.PAGE.read_text() == make_reference.page(), "python -m docs.make_reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_study_files_are_valid(page: Path) -> None:
    for block in _blocks(page, "toml"):
        parse({"study": {"name": "excerpt"}, **tomllib.loads(block)}, page.name)


def test_the_arithmetic_is_right() -> None:
    page = ROOT / "docs" / "receptive-field.md"
    examples = "\n".join(_blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    assert len(test.examples) > 10
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_the_figures_show_what_the_text_says() -> None:
    examples = (make_figures.chain(), make_figures.misaligned(), make_figures.sparse())
    assert [rows[-1][1].span for rows in examples] == [13, 23, 9]
    text = (ROOT / "docs" / "why-reject-inside.md").read_text()
    shares = make_figures.legal_shares()
    assert len(shares) == 4
    missing = [mean for mean, _, _ in shares.values() if f"{mean} %" not in text]
    assert missing == []


def test_a_limit_is_added_as_the_page_says() -> None:
    """In a process of its own: a limit joins the list of all limits by being defined."""
    (block,) = (b for b in _blocks(ROOT / "docs" / "howto.md", "python") if "class" in b)
    code = f"{block}\nassert [rule.value for rule in rules.rules] == [12]\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_a_known_architecture_is_queued_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own lines, up to the training."""
    (block,) = (b for b in _blocks(ROOT / "docs" / "howto.md", "python") if "enqueue" in b)
    shutil.copytree(STUDIES, tmp_path / "studies", ignore=shutil.ignore_patterns("[!q]*", "*.db*"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block.replace("study.launch()", ""), names)
    (trial,) = names["study"].load().trials
    assert trial.state.name == "WAITING"
    assert trial.system_attrs["fixed_params"].keys() <= names["study"].config.parameters.keys()
