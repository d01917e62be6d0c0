"""Weights & Biases: a project for the study, a run for each trial."""

from __future__ import annotations

import os

from optuna.trial import FrozenTrial, TrialState

from search.trackers.tracker import Tracker, called, choices, curves, facts


class WandB(Tracker):
    """Runs in `runs`/wandb, which `wandb sync` sends; `WANDB_MODE=online` sends them at once."""

    name = "wandb"
    package = "wandb"

    def write(self, trial: FrozenTrial) -> None:
        import wandb  # seconds, and an optional package

        self.runs.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_meta=True, x_disable_stats=True
        )
        run = wandb.init(
            project=self.runs.name,
            name=called(trial),
            dir=self.runs,
            config=choices(trial),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=settings,
        )
        for epoch, measured in curves(trial):
            run.log(measured, step=epoch)
        run.summary.update(facts(trial))
        run.finish(exit_code=int(trial.state == TrialState.FAIL))
