"""Whether a bundle's `report.html` is a page that does nothing: text, tables and its own
pictures."""

from __future__ import annotations

from html.parser import HTMLParser

from search.bundles.contents import BundleError

_TAGS = frozenset(
    {
        *("html", "head", "meta", "title", "style", "body", "main", "article", "section"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "em", "strong", "code", "pre"),
        *("ul", "ol", "li", "blockquote", "a", "img", "figure", "figcaption", "div", "span"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
)
_ATTRIBUTES = frozenset(
    {"lang", "charset", "name", "content", "class", "id", "style", "start", "href", "src", "alt",
     "title"}
)  # fmt: skip


class _Reader(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            raise BundleError(f"report.html, line {self.getpos()[0]}: holds <{tag}>")
        for name, value in attrs:
            text = (value or "").strip().lower()
            outside = name == "src" and not text.startswith("data:image/png;base64,")
            scripted = name == "href" and not text.startswith(("#", "https://", "http://"))
            if name not in _ATTRIBUTES or outside or scripted or _fetches(text, name):
                raise BundleError(
                    f"report.html, line {self.getpos()[0]}: <{tag}> has {name}={text[:40]!r}"
                )

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and _fetches(data.lower(), "style"):
            raise BundleError(f"report.html, line {self.getpos()[0]}: its style fetches something")


def _fetches(text: str, name: str) -> bool:
    return name == "style" and any(word in text for word in ("url(", "@import", "expression", "\\"))


def require_still(content: bytes) -> str:
    """Says that the page runs and fetches nothing.

    Raises:
        BundleError: it does, or is no page.
    """
    try:
        reader = _Reader()
        reader.feed(content.decode())
        reader.close()
    except UnicodeDecodeError:
        raise BundleError("report.html is no UTF-8") from None
    return "report.html runs and fetches nothing"
