"""MLflow: an experiment for the study, a run for each trial."""

from __future__ import annotations

import os
import time

from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from search.trackers.tracker import Tracker, called, choices, curves, facts

_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}


class MLflow(Tracker):
    """The server of `MLFLOW_TRACKING_URI`, else `runs`/mlflow.db, which `mlflow ui` reads."""

    name = "mlflow"
    package = "mlflow"

    def write(self, trial: FrozenTrial) -> None:
        from mlflow.entities import Metric, Param  # an optional package
        from mlflow.tracking import MlflowClient

        self.runs.mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{self.runs.absolute() / 'mlflow.db'}"
        with FileLock(self.runs / "mlflow.lock"):  # it makes its tables when first opened
            client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
            experiment = client.get_experiment_by_name(self.runs.name)
            number = (
                experiment.experiment_id if experiment else client.create_experiment(self.runs.name)
            )
        run = client.create_run(number, run_name=called(trial)).info.run_id
        now = int(1e3 * time.time())
        points = [*curves(trial), (0, facts(trial))]
        client.log_batch(
            run,
            [Metric(key, v, now, epoch) for epoch, found in points for key, v in found.items()],
            [Param(key, str(value)) for key, value in choices(trial).items()],
        )
        client.set_terminated(run, _STATUS.get(trial.state, "FAILED"))
