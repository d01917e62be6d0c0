"""Texts with gaps: model code, report and README of a bundle.

Read `template`, then any `.jinja` here.
A new text is one file here; who writes it asks for it by its name.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """A text of `search/templates`; it may use no name that it is not given."""
    environment = Environment(
        loader=PackageLoader("search"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    return environment.get_template(name)
