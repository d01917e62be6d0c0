"""One trial: candidate, network, training, report."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna

from search.analysis.table import analyze
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.domains import Choice, FloatRange, IntRange, Setting
from search.proposals.parameters import suggest
from search.storage.checkpoints import (
    CheckpointError,
    checkpoint_path,
    discard_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from search.storage.claims import ClaimLostError
from search.storage.finalists import fresh_candidate
from search.storage.given import given_candidate
from search.storage.goals import values
from search.storage.studies import study_storage
from search.storage.trials import Attributes, is_finalist, is_given, write
from search.training.devices import describe_device
from search.training.evaluation import Evaluation
from search.training.trainer import Trainer
from search.training.training import EpochRecord, Moment, Training
from search.workers.pruners import Halving, Median

log = logging.getLogger(__name__)

FIRST_RUNG = 0.4
"""The share of its epochs that each trial gets.  On the landscape of docs/results an accuracy
after a fifth of them hardly ranks networks (Spearman 0.34 with the last), after two fifths it
does (0.87)."""

MEDIAN_OF = 5
"""Trials at least that a median is of: of those that completed, trainings of finalists report
nothing, and where epochs are searched some are over before the epoch in question."""

CHECKPOINT_INTERVAL = 30.0
"""Seconds of training at most, beside the running epoch, that a dying process takes with it.

Young's rule (1974), sqrt(2 x cost x time between failures), says 42 s for the 10 ms that a
checkpoint takes and one failure a day.
"""

MOMENT_INTERVAL = 5.0
"""Seconds between two notes of where a training is."""


class Interrupted(Exception):  # noqa: N818 - an order from outside, not an error
    """The trial was told to stop before its end; its checkpoint is on disk."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a trial that ran to its end leaves for people to look at."""

    trial: optuna.Trial
    candidate: Candidate
    training: Training
    evaluation: Evaluation


class Objective:
    """Trains the candidate that a trial proposes and answers with its objectives.

    `runs` keeps checkpoints.  `stop` is asked after every step for a reason to stop, or None.
    `finished` sees every trial that ran to its end.
    """

    def __init__(
        self,
        config: StudyConfig,
        trainer: Trainer,
        *,
        runs: Path,
        stop: Callable[[], str | None] = lambda: None,
        finished: Callable[[Finished], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._runs = runs
        self._stop = stop
        self._finished = finished

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """The trial's objectives, in the order of `study.objectives`.

        Raises:
            RejectedError: for a queued candidate that breaks a rule.
            InfeasibleError: where the sampler finds no candidate.
            optuna.TrialPruned: where the pruner gives up on the trial.
            Interrupted: where `stop` gave a reason.
            DivergedError: where the loss is no number any more.
        """
        dataset = self._trainer.dataset
        storage, classes = study_storage(trial.study), len(dataset.classes)
        with storage.together():
            candidate = (
                fresh_candidate(trial, self._config)
                or given_candidate(trial)
                or suggest(trial, self._config, input=dataset.input, classes=classes)
            )
            candidate = _fitted(candidate, Attributes.of(trial).batch_divisor or 1)
            self._describe(trial, candidate)
        training = self._trainer.training(candidate)
        path = checkpoint_path(self._runs, trial)
        self._resume(trial, training, path)
        try:
            self._run(trial, training, path)
        finally:
            images = training.history[-1].images if training.history else 0
            pflop = candidate.pflop(training.epoch, images)
            with storage.together():
                self._log(trial, training)
                seconds = sum(record.seconds for record in training.history)
                write(trial, Attributes(seconds=seconds, pflop=pflop))
        final = training.history[-1]
        discard_checkpoints(self._runs, trial, but=path)
        assert training.evaluation is not None  # of the last epoch, run or restored here
        if self._met(trial, self._metric(final)):
            write(trial, Attributes(pflop_to_target=pflop))
        self._show(Finished(trial, candidate, training, training.evaluation))
        found = values(Attributes.of(trial), self._metric(final), self._config.study)
        return found if len(found) > 1 else found[0]

    def _show(self, finished: Finished) -> None:
        try:
            self._finished(finished)
        except ClaimLostError:
            raise
        except Exception as error:  # whatever a picture stumbles over, the training is done
            log.warning("trial %d has no pictures: %s", finished.trial.number, error)

    def _describe(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """Notes what the checker found."""
        facts = analyze(candidate.architecture)
        carried = Attributes(
            architecture=candidate.architecture.to_json(),
            recipe=dataclasses.asdict(candidate.recipe),
            receptive_field=facts.smaller_field,
            parameters=facts.parameters,
            macs=facts.macs,
            verdict="accepted",
            device=describe_device(self._trainer.device),
            moment=Moment(1, "augmenting", 0.0, None)._asdict(),
        )
        write(trial, carried)

    def _resume(self, trial: optuna.Trial, training: Training, path: Path) -> None:
        try:
            state = load_checkpoint(latest_checkpoint(self._runs, trial))
        except CheckpointError as error:
            log.warning("trial %d starts again: %s", trial.number, error)
            return
        if state is None or "history" not in state:
            return
        ended = self._ended(trial, [EpochRecord(**each) for each in state["history"]], training)
        if not ended and "optimizers" not in state:
            log.warning("trial %d starts again: it ended where the target was lower", trial.number)
            return
        training.restore(state)
        # Of an earlier claim, it becomes this one's; it may have met a target that was higher.
        save_checkpoint(path, training.result() if ended else state)
        for record in training.history:  # killed between checkpoint and report, it lacks one
            self._report(trial, self._metric(record), record.epoch)

    def _run(self, trial: optuna.Trial, training: Training, path: Path) -> None:
        saved = noted = time.monotonic()

        def on_step() -> None:
            nonlocal noted
            reason = self._stop()
            if reason is not None:
                raise Interrupted(reason)
            if time.monotonic() - noted >= MOMENT_INTERVAL:
                noted = time.monotonic()
                write(trial, Attributes(moment=training.moment._asdict()))

        while not self._ended(trial, training.history, training):
            record = training.run_epoch(on_step)
            ended = self._ended(trial, training.history, training)
            with study_storage(trial.study).together() as writes:
                if ended:
                    # The optimizers' state served to resume; the weights serve to export.
                    save_checkpoint(path, training.result())
                elif time.monotonic() - saved >= CHECKPOINT_INTERVAL:
                    save_checkpoint(path, training.state())
                    self._log(trial, training)
                    writes.durable = True
                    saved = time.monotonic()
                self._report(trial, self._metric(record), record.epoch)
            if not ended and self._competes(trial) and trial.should_prune():
                discard_checkpoints(self._runs, trial)
                accuracy = f"{self._metric(record):.4f}"
                raise optuna.TrialPruned(f"accuracy {accuracy} in epoch {record.epoch}")

    def _ended(
        self, trial: optuna.Trial, history: Sequence[EpochRecord], training: Training
    ) -> bool:
        """Whether `training` is over after these epochs."""
        return bool(history) and (
            len(history) == training.recipe.epochs or self._met(trial, self._metric(history[-1]))
        )

    def _log(self, trial: optuna.Trial, training: Training) -> None:
        write(trial, Attributes(history=[vars(record) for record in training.history]))

    def _report(self, trial: optuna.Trial, accuracy: float, epoch: int) -> None:
        if not self._reports(trial):
            return
        with warnings.catch_warnings():
            # A resumed trial may repeat epochs; Optuna keeps what it has, and says so.
            warnings.filterwarnings("ignore", message=".*already reported.*")
            trial.report(accuracy, epoch)

    def _metric(self, record: EpochRecord) -> float:
        value: float = getattr(record, self._config.study.metric)
        return value

    def _reports(self, trial: optuna.Trial) -> bool:
        """Whether a pruner compares others with the trial: Optuna takes no reports for several
        objectives, and trials of a later search are not to compete with finalists."""
        return len(self._config.study.objectives) == 1 and not is_finalist(trial)

    def _competes(self, trial: optuna.Trial) -> bool:
        """Whether a pruner may end the trial: not one that somebody asked for by name."""
        return self._reports(trial) and not is_given(trial)

    def _met(self, trial: optuna.Trial, accuracy: float) -> bool:
        """Whether `accuracy` ends the trial; a finalist's training is measured at its end."""
        return self._config.study.met(accuracy) and not is_finalist(trial)


def _fitted(candidate: Candidate, divisor: int) -> Candidate:
    """The candidate with a part of its batch, for a trial that ran out of memory."""
    batch = max(1, candidate.recipe.batch_size // divisor)
    recipe = dataclasses.replace(candidate.recipe, batch_size=batch)
    return dataclasses.replace(candidate, recipe=recipe)


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """The pruner that the study file names, with rungs that fit its number of epochs."""
    longest = _largest(config.training.epochs)
    first = math.ceil(FIRST_RUNG * longest)
    match config.study.pruner:
        case "median":
            return Median(n_startup_trials=MEDIAN_OF, n_warmup_steps=first, n_min_trials=MEDIAN_OF)
        case "asha":
            return Halving(min_resource=first, reduction_factor=2)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=longest, reduction_factor=2
            )
        case "none":
            return optuna.pruners.NopPruner()


def _largest(epochs: Setting) -> int:
    if isinstance(epochs, Choice):
        return max(int(value) for value in epochs.values)
    return int(epochs.high if isinstance(epochs, IntRange | FloatRange) else epochs)
