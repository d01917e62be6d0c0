"""The view of a running study in the terminal."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Self

from optuna import Study
from optuna.exceptions import StorageInternalError
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from search.config.sections import StudyConfig
from search.display import wording
from search.display.rhythm import Rhythm
from search.display.terminal import console, note, show, status_view
from search.storage.summary import Progress, Summary, summarize

SILENCE = 10.0
"""Seconds without a line about a running trial after which the log says where it stands."""


class LiveView:
    """One calm view of a running study, fed by polling its storage.

    A context manager.  `update` may be called as often as one likes: the storage is read at
    most once a second.  On a terminal the view is redrawn in place; elsewhere every start,
    epoch and end of a trial is one timestamped line, and so is where it stands when it has not
    been heard of for `SILENCE`.  `screen` stands in for stderr.
    """

    def __init__(
        self,
        study: Study,
        config: StudyConfig,
        *,
        screen: Console | None = None,
    ) -> None:
        self.study = study
        self.config = config
        self._rhythm = Rhythm(pause=1.0, share=10)
        with self._rhythm.turn():
            self.summary = summarize(study, config)
        self._console = screen or console(sys.stderr)
        self._plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._log = _Log(self.summary)
        self._started = self._answered = time.monotonic()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if not self._plain:
            self._live.start()
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self) -> None:
        """Reads the storage, when it is time, and shows what is new."""
        if not self._rhythm.due:
            return
        # The workers retry and report; a view that dies would take them along.
        with self._rhythm.turn(), suppress(StorageInternalError):
            self.summary = summarize(self.study, self.config)
            self._answered = time.monotonic()
        if self._plain:
            for line in self._log.news(self.summary):
                self._console.print(f"{datetime.now():%H:%M:%S} {line}", soft_wrap=True)
        else:
            self._draw()

    def finish(self, reason: str, *commands: str) -> None:
        """Leaves the final table on stdout; why it ended and what comes next on stderr."""
        self._live.stop()
        self.summary = summarize(self.study, self.config)
        show(status_view(self.summary))
        note(f"\n{reason}")
        for command in commands:
            note(f"next: {command}")

    def _draw(self) -> None:
        height = self._console.height
        few = 5 if height >= 32 else 3
        view = status_view(self.summary, most=few, running=max(1, height - 22), leaders=few)
        self._live.update(Padding(Group(view, self._clock()), (1, 1, 0, 1)), refresh=True)

    def _clock(self) -> Text:
        now = time.monotonic()
        words = [f"{wording.duration(now - self._started)} passed"]
        if self.summary.left is not None:
            words.append(f"{wording.duration(self.summary.left)} left")
        words.append("Ctrl-C stops and keeps everything")
        if now - self._answered > 5:
            words = [f"the storage has not answered for {wording.duration(now - self._answered)}"]
        return Text(" · ".join(words), "dim")


class _Log:
    """Turns two readings of a study into the lines that tell the difference."""

    def __init__(self, before: Summary) -> None:
        self._seen = {trial.number: trial for trial in (*before.trials, *before.finals)}
        self._told: dict[int, float] = defaultdict(time.monotonic)

    def news(self, summary: Summary) -> Iterable[str]:
        for trial in (*summary.trials, *summary.finals):
            before = self._seen.get(trial.number)
            if before == trial:
                continue
            self._seen[trial.number] = trial
            lines = [*_lines(before, trial, summary)]
            if not lines and self._told[trial.number] <= time.monotonic() - SILENCE:
                lines = [*_meanwhile(before, trial)]
            if lines:
                self._told[trial.number] = time.monotonic()
            yield from lines


def _meanwhile(before: Progress | None, trial: Progress) -> Iterable[str]:
    """Where a trial stands within an epoch, when it has said so anew."""
    if trial.moment is not None and before is not None and before.moment != trial.moment:
        phase, speed = wording.moment(trial.moment)
        speed = f", {speed} images/s" if speed else ""
        epoch = f"epoch {trial.epoch + 1}/{trial.epochs or '?'}"
        yield f"{_name(trial)} {epoch}: {phase}{speed}{_left(trial)}"


def _lines(before: Progress | None, trial: Progress, summary: Summary) -> Iterable[str]:
    name = _name(trial)
    # A trial is there a moment before what it trains is.
    if trial.parameters is not None and (before is None or before.parameters is None):
        field, parameters, macs = wording.sizes(*trial.sizes)
        yield f"{name} started: RF {field}, {parameters} parameters, {macs} MACs{_tried(trial)}"
    accuracy = f"{summary.config.study.measure} {wording.percent(trial.accuracy)}"
    if trial.accuracy is not None and trial.epoch > (before.epoch if before else 0):
        epoch = f"epoch {trial.epoch}/{trial.epochs or '?'}"
        yield f"{name} {epoch}: {accuracy}{_left(trial)}"
    if before is not None and before.state == trial.state:
        return
    if trial.state == "complete":
        again = trial.finalist is not None
        best = "" if again else f", best so far {wording.best(summary)}"
        yield f"{name} completed: {accuracy}{best}"
    elif trial.state == "pruned":
        yield f"{name} pruned at epoch {trial.epoch}: {accuracy}"
    elif trial.state == "fail":
        yield f"{name} failed: {trial.failure or 'no reason recorded'}"


def _name(trial: Progress) -> str:
    again = "" if trial.finalist is None else f" (finalist {trial.finalist} again)"
    given = f" ({trial.given})" if trial.given else ""
    return f"trial {trial.number}{again}{given}"


def _left(trial: Progress) -> str:
    return "" if trial.eta is None else f", {wording.duration(trial.eta)} left"


def _tried(trial: Progress) -> str:
    if trial.proposals is None:  # of a finalist, or given
        return ""
    return f", after {wording.plural(trial.proposals, 'proposal')}"
