"""A report that does something, in the ways that browsers know and parsers do not."""

from __future__ import annotations

import pytest

from search.bundles.contents import BundleError
from search.bundles.page import require_still
from tests.bundles.conftest import COMMITTED

PAGE = (COMMITTED / "report.html").read_text(encoding="utf-8")


def test_a_report_of_ours_is_still() -> None:
    require_still(PAGE.encode())


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<SCRIPT SRC=//x></SCRIPT>",
        "<script\n>",
        "<script/x>",
        "<scr\0ipt>",
        "<ScRiPt ",
        '<img src="data:image/png;base64,AA" onerror="x()">',
        "<img src=x onerror=x()>",
        '<img src="https://x/y.png" alt="">',
        '<img src="data:image/svg+xml;base64,AA" alt="">',
        '<img alt="a" src="data:image/png;base64,AA" srcset="//x">',
        "<iframe src='x'></iframe>",
        "<svg onload=x()>",
        "<svg><style><img src=x></style></svg>",
        "<math><mtext></mtext></math>",
        '<a href="javascript:x">y</a>',
        '<a href="&#106;avascript:x">y</a>',
        '<a href="java\tscript:x">y</a>',
        '<a href="data:text/html,x">y</a>',
        '<meta http-equiv="refresh" content="0;url=x">',
        '<meta name="referrer" content="unsafe-url">',
        "<form action=x><input></form>",
        "<base href=x>",
        "<link rel=stylesheet href=x>",
        "<object data=x></object>",
        "<embed src=x>",
        "<template><script></script></template>",
        "<noscript><p title=\"</noscript><script>x</script>\"></noscript>",
        "<textarea></textarea>",
        "<style>body { background: URL(x) }</style>",
        "<style>@import 'x';</style>",
        "<style>body { background: u\\72l(x) }</style>",
        "<style >@import 'x';</style>",
        "<style/>@import 'x';</style>",
        '<style class="a">body { background: url(x) }</style>',
        "<style>body { background: url(x) }",
        "<style>body { margin: 0 }",
        "<style>a { } </style ><style>@import 'x'",
        '<p style="background:url(x)">',
        "<!-- --!><script>x</script>",
        "<![CDATA[><script>x</script>]]>",
        "<?xml version=1?><p>",
        "<!doctype html>",
        "< script>",
        '<p title="a"b="c">',
        '<p title="a>',
        "<p title='a'>",
        "</script >",
        "<",
        "\x1b]0;owned\x07",
    ],
)  # fmt: skip
def test_a_page_that_could_do_something_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"report\.html"):
        require_still(PAGE.replace("</body>", f"{text}</body>").encode())


@pytest.mark.parametrize(
    "text", ["a &lt; b &amp; c > d", '<a href="https://x/y">y</a>', "<h3>é ✓</h3>"]
)
def test_text_and_links_are_still(text: str) -> None:
    require_still(PAGE.replace("</body>", f"{text}</body>").encode())
