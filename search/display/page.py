"""Markdown as one HTML page that holds its images."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from markdown_it import MarkdownIt

from search.templates import template


def page(markdown: str, images: Mapping[str, bytes]) -> str:
    """The page; `images` are PNG files by the names that `markdown` gives them."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image" and child.attrs["src"] in images:
                content = base64.b64encode(images[str(child.attrs["src"])]).decode()
                child.attrs["src"] = f"data:image/png;base64,{content}"
    body = parser.renderer.render(tokens, parser.options, {})
    title = next(t.content for t, before in zip(tokens[1:], tokens, strict=False)
                 if before.type == "heading_open")  # fmt: skip
    return template("report.html.jinja").render(title=title, body=body)
