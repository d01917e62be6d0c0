"""Workers killed at random times: which trials are lost, trained twice, or never end.

    python -m benchmarks.faults [ROUNDS]

Each round is a new study of 60 trials on SQLite with three worker processes, whose trainings
are four epochs in name only with real reports and checkpoints.  Until the budget is spent, one
of them is sent SIGKILL every second to fourth second, and another takes its place.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from tests.processes import created, epochs_run, start, worker

TRIALS, WORKERS, EPOCHS = 60, 3, 4


def killing(url: str, folder: Path, rng: random.Random) -> tuple[int, int]:
    """How many workers were killed, and how many of the others crashed."""
    alive = [start(worker, url, folder, epochs=EPOCHS) for _ in range(WORKERS)]
    kills = 0
    while any(process.exitcode is None for process in alive):
        time.sleep(rng.uniform(1, 4))
        index = rng.randrange(WORKERS)
        if alive[index].exitcode is None:
            alive[index].kill()
            alive[index].join()
            kills += 1
            alive[index] = start(worker, url, folder, epochs=EPOCHS)
    return kills, sum(process.exitcode != 0 for process in alive)


def is_whole(trial: FrozenTrial) -> bool:
    """Whether the trial has its value, and a report of every epoch."""
    epochs = list(range(1, EPOCHS + 1))
    return trial.state == TrialState.COMPLETE and sorted(trial.intermediate_values) == epochs


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for seed in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            study = created(f"sqlite:///{folder}/study.db", trials=TRIALS)
            kills, crashed = killing(
                f"sqlite:///{folder}/study.db", Path(folder), random.Random(seed)
            )
            trials, ran = study.trials, epochs_run(Path(folder))
            print(
                f"round {seed}: {kills} kills, {len(trials)} trials,",
                f"{TRIALS - sum(map(is_whole, trials))} lost,",
                f"{len(trials) - TRIALS} too many, {len(ran) - len(set(ran))} epochs twice,",
                f"{crashed} crashed",
                flush=True,
            )


if __name__ == "__main__":
    main()
