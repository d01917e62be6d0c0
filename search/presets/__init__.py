"""Study files to begin with: the quickstart, and the rules of assignments.

Read any `.toml` here.
A new preset is one file here; `init --preset` finds it by its name.
"""

from __future__ import annotations

from importlib import resources

from search.errors import ConfigError

PRESETS = sorted(
    path.name.removesuffix(".toml")
    for path in resources.files(__name__).iterdir()
    if path.name.endswith(".toml")
)


def preset(name: str) -> str:
    """The text of a study file.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: must be one of {', '.join(PRESETS)}")
    return resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
