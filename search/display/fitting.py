"""Tables that leave columns out, rather than cut what they hold, where a terminal is narrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Fitting:
    """The table that `make` builds without the columns of the titles that it is given.

    `spare` are titles of columns that may be missing, the first to go first; as few go as a
    terminal needs.  With `told`, a line below says which went.
    """

    make: Callable[[Sequence[str]], Table]
    spare: Sequence[str]
    told: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = next(
            (
                count
                for count in range(len(self.spare))
                if _width(self.make(self.spare[:count]), console, options) <= options.max_width
            ),
            len(self.spare),
        )
        yield self.make(self.spare[:count])
        gone = [title for title in self.spare[:count] if title]
        if gone and self.told:
            yield Text(f"A wider terminal shows {', '.join(gone)}, too.", "dim")


def _width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """What `table` needs: columns that do not wrap in full, the others their longest word."""
    wide = options.update(width=_UNBOUNDED)
    for column in table.columns:
        if column.no_wrap:
            cells = (column.header, *column.cells, column.footer)
            column.min_width = max(console.measure(cell, options=wide).maximum for cell in cells)
    return console.measure(table, options=wide).minimum
