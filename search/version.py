"""Which release of this program runs."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

NAME = "c1c4-search"
_ROOT = Path(__file__).parent.parent


def version() -> str:
    """`0.1.0`, with the commit where one is known: `0.1.0 (5e75e0e1c2d3)`."""
    commit = _cloned() or _installed()
    release = importlib.metadata.version(NAME)
    return f"{release} ({commit})" if commit else release


def _cloned() -> str | None:
    """The commit of a clone; `-dirty` behind it tells that files were changed."""
    if not (_ROOT / ".git").exists():  # a repository further up is somebody else's
        return None
    command = ("git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or another user's clone
        return None
    return done.stdout.strip()


def _installed() -> str | None:
    """The commit that pip installed from (PEP 610)."""
    origin = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    commit: str | None = json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return commit and commit[:12]
