"""`training_log.csv`: every epoch of the search's trial and of the retraining."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from search.bundles.findings import Findings
from search.bundles.numbers import Found, from_log
from search.bundles.parts.part import Part


class Log(Part):
    """The log of the trainings, which tells what they cost."""

    names = ("training_log.csv",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        runs = {"search": findings.history, "retraining": findings.retraining}
        return {"training_log.csv": _table(runs).encode()}

    @property
    def found(self) -> Found:
        bundle = self.bundle
        log, metric = bundle.files["training_log.csv"], bundle.config.study.metric
        return from_log(log, metric, bundle.stated, bundle.architecture)


def _table(runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """One line per epoch of each run; what was not measured is left blank."""
    fields = (
        "run", "epoch", "train_loss", "validation_loss", "accuracy", "balanced_accuracy",
        "learning_rate", "images", "seconds",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", extrasaction="ignore")
    writer.writeheader()
    for run, records in runs.items():
        for record in records:
            measured = {k: v for k, v in record.items() if v is not None and math.isfinite(v)}
            writer.writerow({"run": run, **measured})
    return text.getvalue()
