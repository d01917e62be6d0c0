"""The pages of the documentation: what their fences hold, and where pictures come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of `page` in any of `languages`."""
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def file_name(block: str) -> str | None:
    """The name in the first line of a block that is a whole file."""
    name = re.match(r"# (\S+\.(?:py|toml))$|# (\S+\.py): ", block, re.MULTILINE)
    return (name[1] or name[2]) if name else None


def write_files(page: str, place: Path) -> None:
    """Writes the files that a page of docs/ shows to where they say."""
    (place / "studies").mkdir(exist_ok=True)
    for block in blocks(ROOT / "docs" / page, "python", "toml"):
        name = file_name(block)
        if name:
            (place / name).write_text(block)


@dataclass(frozen=True)
class Screenshot:
    """A page of the dashboard as the browser must show it; `size` is width, height in pixels."""

    name: str
    path: str
    size: tuple[int, int]
    words: tuple[str, ...]


# `make pictures` keeps them in docs/images.
SCREENSHOTS = (
    Screenshot(
        "dashboard-study", "", (1400, 1712), ("Accuracy over parameters", "Rejections by rule")
    ),
    Screenshot("dashboard-note", "/note", (1000, 1400), ("Leaderboard", "receptive field &gt; ")),
    Screenshot(
        "dashboard-trial",
        "/trials?numbers={trial}",
        (1400, 2090),
        ("layer by layer", "architecture.png"),
    ),
)
