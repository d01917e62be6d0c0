"""What the documentation says can be typed, is there, and is so."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import typer
from PIL import Image

from docs import make_figures, make_reference, make_site
from run_study import app, run
from search.config.files import parse
from search.config.sections import RESUMABLE
from search.study import Study
from search.workers.supervisor import Ending
from tests.conftest import STUDIES
from tests.pages import (
    FENCE,
    IMAGES,
    PAGES,
    ROOT,
    SCREENSHOTS,
    blocks,
    file_name,
    write_files,
)

PROGRAMS = (["python", "run_study.py"], ["c1c4-search"])

# What a page says, and what is typed here in its place, and why.
INSTEAD = {
    # There is no such server; databases are what test_storage is about.
    "postgresql://me@db.example.org/studies": "sqlite:///studies/shared.db",
    # test_cluster has a cluster.
    "--ray auto": "",
    # There may be no GPU.
    "--device cuda:0": "--device cpu",
    "--per-gpu 2": "",
    # A port of which nobody else makes use.
    "--port 8080": "",
    # The extra [int8] may not be there; test_int8 is about it.
    "--int8": "",
    # One that goes on when the target is met.
    "--trials 40": "--trials 2",
    # A page that names one study file for other data than before.
    "--set data.kind=imagefolder": "--set data.kind=imagefolder --set study.name=folder",
    # The first trial meets the small target.
    "shapes:2": "shapes:0",
}
# Blocks of Python that are not run with the others, and why.
NO_CELL = {
    "(AtLeast)": "changes the list of limits of the process: a test of its own",
    "ray.init": "needs Ray",
}
# What the reader of a page has done before.
BEFORE = {
    "howto.md": [
        "launch studies/quickstart.toml --trials 4 --set study.target=1 --set study.finalists=1"
    ]
}
# Files of the reader in which something is changed, so that a search takes seconds.
SMALLER = {
    r"target = .*": "target = 0.01",
    r"\bepochs = .*": "epochs = 1",
    r'kind = "cifar10".*': 'kind = "digits"\nimage_size = 16',  # images that need no download
}
# What no test runs, and why.
NOT_RUN = {
    "make": "makes its own environment; what `study` does then is `test_the_main_job`",
    "pip": "installs into the environment that runs this",
    "ssh": "needs another machine",
    ".": "enters an environment that is entered already",
}


@dataclass(frozen=True)
class Command:
    """A line of a shell block, and what the page says that it prints."""

    page: str
    line: str
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def arguments(self) -> list[str] | None:
        """What it gives to the program, None for another one."""
        for program in PROGRAMS:
            if self.words[: len(program)] == program:
                return self.words[len(program) :]
        return None


def _steps(page: Path) -> Iterator[Command | str]:
    """What a page lets a reader do, in its order: commands, and blocks of Python."""
    for language, block in FENCE.findall(page.read_text()):
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, *output = part.splitlines()
                yield Command(page.name, line, tuple(output))
        elif language == "sh":
            for line in block.splitlines():
                if line and not line.startswith("#"):
                    yield Command(page.name, line.removeprefix("exec "))
        elif language == "python" and not file_name(block):
            yield block


COMMANDS = list(
    dict.fromkeys(step for page in PAGES for step in _steps(page) if isinstance(step, Command))
)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.arguments], ids=str)
def test_the_command_line_takes_it(command: Command) -> None:
    group: Any = typer.main.get_command(app)
    name, *arguments = command.arguments or []
    if name != "--help":
        group.commands[name].make_context(name, arguments)


# --- a reader who types a page from top to bottom --------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the study files, and images."""
    place = tmp_path_factory.mktemp("reader")
    (place / "studies").mkdir()
    for file in (*STUDIES.glob("*.toml"), STUDIES / "baseline.json"):
        shutil.copy(file, place / "studies")
    write_files("tutorial.md", place)
    write_files("howto.md", place)
    subprocess.run([sys.executable, "make_shapes.py", "shapes"], cwd=place, check=True, timeout=120)
    for file in place.glob("shapes/*/*/0[01]*.png"):
        smaller = place / "DIR" / file.relative_to(place / "shapes")
        smaller.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((32, 32)).save(smaller)
    return place


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working directory."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    return tmp_path


def _is_pure(command: Command) -> bool:
    """Whether it needs no study: then it is run as it stands, on the files as they stand."""
    name, *arguments = command.arguments or [""]
    stored = any(re.fullmatch(r"\w+:\d+", word) for word in arguments)
    return name in ("check", "sample", "doctor") and not stored


@pytest.mark.parametrize("command", [c for c in COMMANDS if _is_pure(c)], ids=str)
def test_it_does_what_the_page_shows(
    command: Command, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command.arguments or []
    code = run(arguments)
    printed = capsys.readouterr()
    assert code in ((0, 3) if arguments[0] == "doctor" else (0, 1))
    assert "run_study: " not in printed.err
    if arguments[0] != "doctor":  # its answer is about the machine
        lines = {line.rstrip() for line in printed.out.splitlines()}
        assert [line for line in command.output if line not in {*lines, "…"}] == []


# Results name what was run once, for hours; a bundle's report is what test_export is about.
TYPED = [page for page in PAGES if "results" not in page.parts]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_a_reader_can_type_the_page(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is not run as it stands above: from top to bottom, in one place."""
    steps = [step for step in _steps(page) if isinstance(step, str) or not _is_pure(step)]
    if not steps:
        pytest.skip("nothing that is not run as it stands")
    _make_small(place)
    monkeypatch.setattr(Study, "launch", _launch)
    monkeypatch.setattr(Study, "train", lambda study, number, **_: study.work(only=number))
    for line in BEFORE.get(page.name, ()):
        run(shlex.split(line))
    for step in steps:
        if isinstance(step, Command):
            code = _type(step, monkeypatch)
            assert code == 0, f"{step}\n{capsys.readouterr().err}"
        elif not any(words in step for words in NO_CELL):
            exec(step, {})


def _make_small(place: Path) -> None:
    for file in (place / "studies").glob("*.toml"):
        text = file.read_text()
        for pattern, smaller in SMALLER.items():
            text = re.sub(pattern, smaller, text)
        file.write_text(text)


def _launch(study: Study, *, tick: Callable[[], None] = lambda: None, **options: object) -> Ending:
    """Works here: that `launch` starts processes is what test_workers and test_run_study hold."""
    study.create()
    ending = study.work(device="cpu")
    tick()
    return ending


def _type(command: Command, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `command`, after what INSTEAD says."""
    line = command.line
    for words, instead in INSTEAD.items():
        line = line.replace(words, instead)
    typed = Command(command.page, line)
    name, *rest = typed.words
    if typed.arguments:
        return _serve(typed) if typed.arguments[0] == "dashboard" else run(typed.arguments)
    if name == "export":
        monkeypatch.setenv(*rest[0].split("=", 1))
        return 0
    if rest == ["make_shapes.py", "shapes"]:
        return subprocess.run([sys.executable, *rest], timeout=120).returncode
    assert name in NOT_RUN, f"no test runs it, and none says why: {command}"
    return 0


def _serve(command: Command) -> int:
    """The dashboard answers with its address, and serves until it is stopped."""
    arguments = [sys.executable, "-m", "run_study", *(command.arguments or []), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, env=environment, stderr=PIPE, text=True) as server:
        assert server.stderr
        address = next((line for line in server.stderr if "http://127.0.0.1:" in line), None)
        running = server.poll() is None
        server.terminate()
    return 0 if address and running else 1


def test_every_exception_is_of_use() -> None:
    lines = [command.line for command in COMMANDS]
    assert [words for words in INSTEAD if not any(words in line for line in lines)] == []
    assert NOT_RUN.keys() <= {line.split()[0] for line in lines}


# --- what else the pages say ------------------------------------------------------------


ON_THE_SITE = {place for file in make_site.gathered() for place in (file, *file.parents)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        assert file.resolve() in ON_THE_SITE, f"make docs leaves {target} out"
        if anchor:
            assert anchor in {_slug(line) for line in file.read_text().splitlines()}, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_code_that_are_named_are_there(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    named = re.findall(r"`((?:benchmarks|docs|search|tests)/[^`\s]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_result_is_listed() -> None:
    results = ROOT / "docs" / "results"
    listed = re.findall(r"\]\((\w+[\w-]*\.md)\)", (results / "README.md").read_text())
    assert sorted(listed) == sorted(p.name for p in results.glob("*.md") if p.name != "README.md")


PICTURES = {*make_figures.PICTURES, *(shot.name for shot in SCREENSHOTS)}
if (IMAGES / f"{make_figures.HERO}.png").exists():  # it shows a study, and comes with its results
    PICTURES.add(make_figures.HERO)


def test_every_picture_is_made_by_a_command() -> None:
    """`make pictures`, and a page shows it; those of a bundle lie in the bundle."""
    named = {
        (page.parent / target).resolve()
        for page in PAGES
        if "results" not in page.parts
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
    }
    assert named == {IMAGES / f"{name}.png" for name in PICTURES}
    assert {file.name for file in IMAGES.iterdir()} == {file.name for file in named}
    assert [file.name for file in named if file.stat().st_size > 300_000] == []


def _slug(line: str) -> str:
    return re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


def test_the_reference_is_what_the_code_says() -> None:
    assert make_reference.PAGE.read_text() == make_reference.page(), "python -m docs.make_reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_study_files_are_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        parse({"study": {"name": "excerpt"}, **tomllib.loads(block)}, page.name)


def test_what_may_change_on_resume_is_named() -> None:
    (sentence,) = re.findall(
        r"[^.\n]* may change; anything else", (ROOT / "docs/howto.md").read_text()
    )
    assert tuple(re.findall(r"`(\w+)`", sentence)) == RESUMABLE


def test_the_arithmetic_is_right() -> None:
    page = ROOT / "docs" / "receptive-field.md"
    examples = "\n".join(blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    assert len(test.examples) > 10
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_the_search_is_drawn_from_its_database() -> None:
    figure = make_figures.search_of(ROOT / "docs" / "results" / "cifar10-search.db.gz")
    (axes,) = figure.axes
    drawn = {points.get_label(): points.get_offsets() for points in axes.collections}
    (winner,) = (place for name, place in drawn.items() if name.startswith("winner: "))
    complete, (best,) = drawn["trained to its end"], winner
    assert best[1] == max(accuracy for _, accuracy in complete)
    # Six operations for each of 23.14 million multiply-adds, 5 million images.
    assert make_figures.baseline_cost() == pytest.approx(0.694, abs=0.001)


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
    (block,) = (b for b in blocks(ROOT / "docs" / "howto.md", "python") if "class" in b)
    code = f"{block}\nassert [rule.value for rule in rules.rules] == [12]\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_a_known_architecture_is_queued_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own lines, up to the training."""
    (block,) = (b for b in blocks(ROOT / "docs" / "howto.md", "python") if "enqueue" in b)
    shutil.copytree(STUDIES, tmp_path / "studies", ignore=shutil.ignore_patterns("[!q]*", "*.db*"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block.replace("study.launch()", ""), names)
    (trial,) = names["study"].load().trials
    assert trial.state.name == "WAITING"
    assert trial.system_attrs["fixed_params"].keys() <= names["study"].config.parameters.keys()
