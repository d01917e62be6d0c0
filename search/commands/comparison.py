"""`compare`: studies side by side, in the terminal, as JSON or as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from search.commands.answers import print_json, write
from search.display import tables, terminal, wording
from search.display.page import page
from search.storage.summary import Summary
from search.targets import study_of


def compare(sources: Sequence[str], storage: str | None, html: Path | None, as_json: bool) -> int:
    """Funnel, best, curves and Pareto fronts of the studies that `sources` name."""
    summaries = [study_of(source, storage=storage).summary for source in sources]
    if html is not None:
        write(html, _page(summaries))
    if as_json:
        print_json([summary.to_json() for summary in summaries])
    else:
        terminal.show(terminal.render_studies(summaries))
    return 0


def _page(summaries: Sequence[Summary]) -> str:
    from search.display.figures.comparison import figure_comparison
    from search.display.figures.style import png

    told = dict(zip(_names(summaries), summaries, strict=True))
    roads = {name: summary.road for name, summary in told.items()}
    sizes = {
        name: [(trial.parameters or 0, trial.accuracy or 0.0) for trial in summary.best]
        for name, summary in told.items()
    }
    (corner, *_), *rows = zip(tables.STUDIES, *map(tables.study, summaries), strict=True)
    stages = [
        wording.stages(summary.proposed, summary.accepted, summary.rejected)
        for summary in summaries
    ]
    rejected = sum((Counter(summary.rejected) for summary in summaries), Counter())
    names = wording.stages(0, 0, rejected)
    funnel = [(name, *(wording.count(stage.get(name, 0)) for stage in stages)) for name in names]
    text = "\n\n".join(
        (
            f"# {' · '.join(summary.name for summary in summaries)}",
            tables.markdown((corner, *told), rows),
            "![](comparison.png)",
            "## Proposals",
            tables.markdown(("", *told), funnel),
        )
    )
    return page(text, {"comparison.png": png(figure_comparison(roads, sizes))})


def _names(summaries: Sequence[Summary]) -> list[str]:
    """The studies' names: one whose accuracy is not that of others says so, and those of one
    name, from different databases, are numbered."""
    names = [
        f"{summary.name} (balanced)" if summary.config.study.balanced else summary.name
        for summary in summaries
    ]
    return [
        f"{name} ({1 + names[:place].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
