"""The house: its rooms from the ground up, each importing only from those before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = (
    "search.errors",
    "search.version",
    "search.domains",
    "search.templates",
    "search.presets",
    "search.networks",
    "search.analysis",
    "search.analysis.tracing",
    "space",
    "search.limits",
    "constraints",
    "search.config",
    "search.data",
    "search.storage",
    "search.trackers",
    "search.proposals",
    "search.training",
    "search.workers",
    "search.display",
    "search.bundles",
    "search.doctor",
    "search.study",
    "search.targets",
    "search.commands",
    "run_study",
)
PURE = (
    "space",
    "constraints",
    "search.limits",
    "search.analysis",
    "search.config",
    "search.data.augmentation",
)


def _name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


# `search/__init__.py` is the face of the house: it opens every room, and none opens it.
FILES = {
    _name(path): path
    for path in (
        *(ROOT / "search").rglob("*.py"),
        *(ROOT / f"{name}.py" for name in ("space", "constraints", "run_study")),
    )
    if path != ROOT / "search" / "__init__.py"
}


def _room(name: str) -> str:
    rooms = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    assert rooms, f"{name} is in no room"
    return max(rooms, key=len)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _mentioned(path: Path) -> Iterator[str]:
    """Modules that a file imports, at its top, in a function or by a string."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^search(?:\.\w+)+$", node.value)


IMPORTS = {name: {m for m in _mentioned(path) if m in FILES} for name, path in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_its_room_and_those_before(name: str) -> None:
    place = ROOMS.index(_room(name))
    assert not {other for other in IMPORTS[name] if ROOMS.index(_room(other)) > place}


def test_what_a_file_keeps_to_itself_is_imported_by_no_other() -> None:
    nodes = ((name, node) for name, path in FILES.items() for node in ast.walk(_tree(path)))
    taken = [
        f"{name}: {node.module}.{alias.name}"
        for name, node in nodes
        if isinstance(node, ast.ImportFrom) and node.module in FILES
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


def test_there_is_no_circle() -> None:
    # Importing from a package imports the package, whose own file imports nothing.
    order = list(TopologicalSorter({n: found - {n} for n, found in IMPORTS.items()}).static_order())
    assert set(order) >= set(FILES)


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith(PURE) and "tracing" not in n])
def test_what_is_pure_imports_no_torch(name: str) -> None:
    mentioned = _mentioned(FILES[name])
    assert not {m for m in mentioned if m.split(".")[0] in ("torch", "torchvision")}


def test_every_room_says_what_it_is() -> None:
    for path in (ROOT / "search").rglob("__init__.py"):
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        if path.parent != ROOT / "search":
            assert re.search(r"^Read ", told, re.M), f"{path}: what to read first"
            assert re.search(r"^(A new|What a trial carries) ", told, re.M), f"{path}: how to add"


TESTS = ROOT / "tests"


@pytest.mark.parametrize("path", sorted(TESTS.glob("*/**/test_*.py")), ids=lambda path: path.stem)
def test_a_test_stands_in_the_room_of_what_it_tests(path: Path) -> None:
    """Or a failure says the wrong one."""
    folder = path.parent.relative_to(TESTS)
    room = ".".join(("search", *folder.parts))
    # The room of commands is typed.
    names = {Path("benchmarks"): "benchmarks.", Path("commands"): "run_study"}
    assert names.get(folder, room) in path.read_text()
