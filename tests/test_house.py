"""The rooms of the house: each file imports only from the rows above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Top to bottom; a row may hold several files, which do not import each other unless a
# later place in the row imports an earlier one.
ROWS = (
    "search.shown",
    "space",
    "constraints",
    "search.explain",
    "search.config",
    "search.network",
    "search.layout search.operations search.trace",
    "search.data",
    "search.augmentation search.resident",
    "search.devices search.normalization search.initialization search.capture search.optimization",
    "search.training",
    "search.proposals search.draws search.inner_samplers search.sampler",
    "search.batch search.database search.storage",
    "search.objective",
    "search.crew search.cluster search.workers",
    "search.wording search.summary search.figures search.diagram search.plots",
    "search.pictures search.notes search.guard search.dashboard",
    "search.terminal",
    "search.contents search.metrics",
    "search.codegen search.findings search.report search.bundle search.export",
    "search.confinement search.confined search.plain search.isolated",
    "search.agreement search.numbers search.onnx_graph search.page search.test_set search.verify",
    "search.doctor",
    "search.study",
    "search.notebook",
    "search.commands",
    "run_study",
)
ORDER = [name for row in ROWS for name in row.split()]


def _files() -> list[Path]:
    search = (p for p in (ROOT / "search").glob("*.py") if p.name != "__init__.py")
    return [*search, *(ROOT / f"{name}.py" for name in ("space", "constraints", "run_study"))]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in ORDER}


def test_every_file_has_its_row() -> None:
    assert {_name(path) for path in _files()} <= set(ORDER)


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_a_file_imports_only_from_above(path: Path) -> None:
    place = ORDER.index(_name(path))
    below = {name for name in _imports(path) if ORDER.index(name) >= place}
    assert not below


@pytest.mark.parametrize("name", ["space", "constraints", "search/config", "search/augmentation"])
def test_what_is_pure_imports_no_torch(name: str) -> None:
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    modules = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {module for module in modules if module.split(".")[0] in ("torch", "torchvision")}
