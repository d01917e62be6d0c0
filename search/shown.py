"""What a notebook asks of an object that it shows."""

from __future__ import annotations

import importlib


class Shown:
    """Shows itself as tables in Jupyter.

    How, says `search.notebook`, which stands below all that it shows and is imported when it
    is first needed.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(importlib.import_module("search.notebook").html(self))
