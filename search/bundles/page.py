"""Whether a bundle's `report.html` is a page that does nothing: text, tables and its own
pictures.

Browsers mend broken HTML in ways that no other parser follows, so the page is not parsed: each
`<` in it must begin one of the few tags that a report needs, written out in full.
"""

from __future__ import annotations

import html
import re

from search.bundles.contents import BundleError
from search.errors import shortened

_TAGS = frozenset(
    {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "figure"),
        *("figcaption", "h1", "h2", "h3", "h4", "p", "br", "hr", "em", "strong", "code", "pre"),
        *("ul", "ol", "li", "blockquote", "a", "img", "div", "span"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
)
_ATTRIBUTES = {
    "src": re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*"),
    "href": re.compile(r"(#|https?://)[^\s]*"),
    "style": re.compile(r"text-align:(left|right|center)"),
    "name": re.compile(r"viewport|color-scheme"),
    **dict.fromkeys(
        ("lang", "charset", "content", "class", "id", "alt", "title"), re.compile(".*")
    ),
}
_TAG = re.compile(r'<(?:/([a-z0-9]+)|([a-z0-9]+)((?: [a-z]+="[^"<>]*")*) ?/?)>')
_ATTRIBUTE = re.compile(r' ([a-z]+)="([^"]*)"')
# Whole: browsers close one at the end of the page, and take attributes, which say nothing here.
_STYLE = re.compile(r"<style>([^<]*)</style>")
_FETCHES = re.compile(r"url|import|expression|\\|image-set", re.IGNORECASE)


def require_still(content: bytes) -> str:
    """Says that the page runs and fetches nothing.

    Raises:
        BundleError: it could, or is no page.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BundleError("report.html is no UTF-8") from None
    page = text.removeprefix("<!doctype html>\n")
    if re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]", page):
        raise BundleError("report.html holds control characters")
    for start in re.finditer("<", page):
        _require_known(page, start.start())
    return "report.html runs and fetches nothing"


def _require_known(page: str, start: int) -> None:
    tag = _TAG.match(page, start)
    if tag is None or (tag[1] or tag[2]) not in _TAGS:
        raise BundleError(f"{_place(page, start)} holds {page[start : start + 20]!r}")
    if tag[2] == "style":
        _require_style(page, start)
    for name, value in _ATTRIBUTE.findall(tag[3] or ""):
        meant = _ATTRIBUTES.get(name)
        if meant is None or not meant.fullmatch(html.unescape(value)):
            given = f"{name}={shortened(value)!r}"
            raise BundleError(f"{_place(page, start)} has <{tag[2]}> with {given}")


def _require_style(page: str, start: int) -> None:
    style = _STYLE.match(page, start)
    if style is None or _FETCHES.search(style[1]):
        raise BundleError(f"{_place(page, start)} has a style that could fetch something")


def _place(page: str, start: int) -> str:
    return f"report.html, line {page.count(chr(10), 0, start) + 2},"
