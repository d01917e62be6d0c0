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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constraints import Limits, Verdict
    from search.networks.architecture import Architecture
    from search.networks.module import build
    from search.study import Study, check
    from space import SearchSpace

__all__ = ["Architecture", "Limits", "SearchSpace", "Study", "Verdict", "build", "check"]

_HOMES = {
    "Architecture": "space",
    "Limits": "constraints",
    "SearchSpace": "space",
    "Study": "search.study",
    "Verdict": "constraints",
    "build": "search.network",
    "check": "search.study",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
