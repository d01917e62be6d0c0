"""`README.md`, `report.html` and `figures/`: the report, for the Hub and for a browser."""

from __future__ import annotations

import re
from collections.abc import Mapping

from search.bundles.bundle import Bundle
from search.bundles.card import card, require_card
from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.page import require_still
from search.bundles.parts.part import Look, Part
from search.bundles.report import report
from search.display.figures.style import png
from search.display.page import page

_PICTURE, _PNG = re.compile(r"figures/\w+\.png"), b"\x89PNG\r\n\x1a\n"


class Pages(Part):
    """One report, as Markdown with its pictures beside it, and as one page that holds them."""

    names = ("README.md", "report.html")

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        markdown, figures = report(findings)
        pictures = {name: png(figure) for name, figure in figures.items()}
        return {
            **pictures,
            "README.md": (card(findings.metrics) + markdown).encode(),
            "report.html": page(markdown, pictures).encode(),
        }

    @classmethod
    def owns(cls, name: str, bundle: Bundle) -> bool:
        picture = _PICTURE.fullmatch(name) and bundle.files[name][:8] == _PNG
        return name in cls.names or bool(picture)

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"report": lambda: require_still(self.bundle.files["report.html"])}

    @property
    def found(self) -> Found:
        require_card(self.bundle.files["README.md"], self.bundle.stated)
        return {}
