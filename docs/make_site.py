"""The pages of the site, as MkDocs asks for them: a hook of mkdocs.yml.

They are gathered below build/pages as they lie in the repository, so that their links hold.  The
API has a page for each room of the house, from its docstrings.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs",
    "studies",
    "benchmarks/published",
)
SUFFIXES = {
    "", ".md", ".png", ".html", ".toml", ".json", ".ipynb", ".csv", ".onnx", ".gz", ".py", ".js",
    ".jsonl", ".safetensors",
}  # fmt: skip
SHEETS = ("space", "constraints")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gathers all pages anew, and lists those of which there is one for each result and room."""
    _gather()
    results = sorted((PAGES / "docs" / "results").glob("*.md"))
    for section, files in {"Results": results, "API": sorted((PAGES / "api").iterdir())}.items():
        named = [file.relative_to(PAGES).as_posix() for file in files]
        (config.nav or []).append({section: named})
    config.extra["polyfills"] = ["docs/worker.js"]  # else the plugin `offline` fetches its own
    return config


def _gather() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    for file in gathered():
        place = PAGES / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    api = PAGES / "api"
    api.mkdir()
    for name in rooms():
        (api / f"{name}.md").write_text(f"# {name}\n\n::: {name}\n", encoding="utf-8")


def gathered() -> Iterator[Path]:
    """The pages, and what they lead to."""
    for name in SHOWN:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        # Databases and runs lie beside study files.
        yield from (each for each in found if each.is_file() and each.suffix in SUFFIXES
                    and "runs" not in each.parts and "__pycache__" not in each.parts)  # fmt: skip


def rooms() -> list[str]:
    """The sheets, and every room of `search`, by their module names."""
    search = ROOT / "search"
    found = [path.parent.name for path in search.glob("*/__init__.py")]
    found += [path.stem for path in search.glob("*.py") if path.stem != "__init__"]
    return [*SHEETS, *(f"search.{name}" for name in sorted(found))]
