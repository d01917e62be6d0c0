"""Study files to begin with: the quickstart, and the rules of assignments.

Read any `.toml` here.
A new preset is one file here; `init --preset` finds it by its name.
"""

from __future__ import annotations

from pathlib import Path

from search.errors import ConfigError

_FOLDER = Path(__file__).parent
PRESETS = sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset(name: str) -> str:
    """The text of a study file.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: must be one of {', '.join(PRESETS)}")
    return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
