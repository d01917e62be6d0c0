"""Searches small convolutional networks under hard limits.

    from search import Study, check
    study = Study("studies/quickstart.toml")
    study.launch()
    check(study.architecture(), study.config.rules)
    study.export()

In Jupyter networks, verdicts, limits, spaces and studies show as tables.

What is public is listed in `__all__`.  Each name is imported when it is first used: the
worker processes that augment images need neither torch nor Optuna.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constraints import Limits, Verdict
    from search.networks.architecture import Architecture
    from search.networks.module import build
    from search.study import Study, check
    from space import SearchSpace

__all__ = ["Architecture", "Limits", "SearchSpace", "Study", "Verdict", "build", "check"]

_HOMES = {
    "Architecture": "search.networks.architecture",
    "Limits": "constraints",
    "SearchSpace": "space",
    "Study": "search.study",
    "Verdict": "constraints",
    "build": "search.networks.module",
    "check": "search.study",
}

# What Jupyter shows as tables.
_SHOWN = (
    ("search.networks.architecture", "Architecture"),
    ("space", "SearchSpace"),
    ("constraints", "Limits"),
    ("constraints", "Verdict"),
    ("search.proposals.proposer", "Acceptance"),
    ("search.storage.summary", "Summary"),
    ("search.study", "Study"),
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _html(shown: object) -> str:
    return str(importlib.import_module("search.display.notebook").html(shown))


def _register() -> None:
    """By names: nothing is imported before one of them is shown."""
    shell = sys.modules["IPython"].get_ipython()
    if shell is not None:
        html = shell.display_formatter.formatters["text/html"]
        for module, name in _SHOWN:
            html.for_type_by_name(module, name, _html)


if "IPython" in sys.modules:
    _register()
