"""TensorBoard: a run for each trial, its curves epoch by epoch, its choices as hyperparameters."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from search.trackers.tracker import Tracker, called, choices, curves, facts


class TensorBoard(Tracker):
    """Event files in `runs`/tensorboard, which `tensorboard --logdir` reads."""

    name = "tensorboard"
    package = "tensorboard"

    def write(self, trial: FrozenTrial) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds, and an optional package

        with SummaryWriter(str(self.runs / "tensorboard" / called(trial))) as writer:
            for epoch, measured in curves(trial):
                for key, value in measured.items():
                    writer.add_scalar(key, value, epoch)
            writer.add_hparams(choices(trial), facts(trial), run_name=".")
