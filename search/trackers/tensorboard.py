"""TensorBoard: a run for each trial, its curves epoch by epoch, its choices as hyperparameters."""

from __future__ import annotations

import math

from optuna.trial import FrozenTrial

from search.storage.trials import Attributes
from search.trackers.tracker import Tracker

_FACTS = ("parameters", "macs", "receptive_field", "seconds", "pflop")


class TensorBoard(Tracker):
    """Event files in `runs`/tensorboard, which `tensorboard --logdir` reads."""

    name = "tensorboard"
    package = "tensorboard"

    def write(self, trial: FrozenTrial) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds, and an optional package

        carried = Attributes.of(trial)
        folder = self.runs / "tensorboard" / f"trial-{trial.number:06d}"
        with SummaryWriter(str(folder)) as writer:
            for record in carried.history or ():
                for key, value in record.items():
                    if key != "epoch" and value is not None and math.isfinite(value):
                        writer.add_scalar(f"epoch/{key}", value, record["epoch"])
            facts = {key: getattr(carried, key) for key in _FACTS}
            numbers = {f"trial/{key}": value for key, value in facts.items() if value is not None}
            if trial.values:
                numbers["trial/accuracy"] = trial.values[0]
            state = {"state": trial.state.name.lower()}
            writer.add_hparams({**trial.params, **state}, numbers, run_name=".")
