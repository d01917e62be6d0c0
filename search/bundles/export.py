"""A study's winner as a bundle that stands on its own: code, weights, ONNX, report, proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial
from torch import nn

from constraints import check
from search.analysis.traced import TracedModule
from search.bundles import metrics
from search.bundles.files import made_at_once, write_files
from search.bundles.findings import Findings
from search.bundles.importance import importances
from search.bundles.int8.making import Maker, require
from search.bundles.metrics import Accuracy, Data, Metrics, Search
from search.bundles.onnx_graph import ONNX_OPSET
from search.bundles.parts.every import parts_of
from search.bundles.parts.graph import portable
from search.bundles.provenance import hardware, seeds, versions
from search.bundles.rival import rivals
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.data.datasets import Dataset, load, load_test, without_test
from search.data.images import Images
from search.data.normalization import Normalization
from search.display import wording
from search.errors import ConfigError, MachineError
from search.networks.network import Network
from search.storage.checkpoints import CheckpointError, latest_checkpoint, load_checkpoint
from search.storage.finalists import choose
from search.storage.studies import require_same_data
from search.storage.summary import summarize
from search.storage.trials import Attributes, candidate_of
from search.training.evaluation import evaluate
from search.training.modules import NONE, Modules
from search.training.trainer import Trainer
from search.training.training import Training

Announce = Callable[[str], None]


def export(
    study: optuna.Study,
    config: StudyConfig,
    *,
    out: Path,
    runs: Path,
    cache: Path,
    device: torch.device,
    trial: int | None = None,
    retrain: bool = True,
    processes: int = 1,
    int8: bool = False,
    modules: Modules = NONE,
    progress: Announce = lambda _: None,
) -> Path:
    """Writes the bundle of trial number `trial`, or of the best, to the new directory `out`.

    With `retrain` the candidate is trained again, by the trial's recipe and seed, on
    training and validation images together; else the trial's own weights are exported, or
    trained again as in the trial where they are gone.  The test images are read once, before
    that, so that those which no export can use cost no training.
    `out`, which is returned, comes to be complete or not at all.  With `int8` it also holds the
    network for microcontrollers.

    `modules` are what may be run of others' code.  `runs` keeps the study's checkpoints, `cache`
    its augmented epochs; `processes` make those.  `progress` gets a line about each step.

    Raises:
        ConfigError: nothing to export, or `out` cannot be made.
        MachineError: the data is not there, no test images, no extra for `int8`, or code of a
            module that is not to be run here.
    """
    if without_test(config.data):
        raise MachineError(without_test(config.data))
    chosen = choose(study, trial)
    candidate = candidate_of(chosen)
    with made_at_once(out) as bundle:
        dataset = load(config.data)
        require_same_data(study, dataset.identity)
        _require_fit(candidate.architecture, dataset)
        if int8:
            require(candidate.architecture, len(dataset.train))
        if isinstance(candidate.architecture, TracedModule):  # told before anything is trained
            portable(modules.build(candidate.architecture), candidate.architecture.input)
        progress("reading the test images")
        test = load_test(config.data)
        make = partial(
            Trainer, config, device=device, cache=cache, processes=processes, modules=modules
        )
        if retrain:
            trainer = make(dataset=dataset.joined())
            trained = _retrained(trainer, chosen, candidate, progress)
        else:
            trainer = make(dataset=dataset)
            trained = _as_in_trial(trainer, runs, chosen, candidate, progress)
        findings = _findings(study, config, chosen, candidate, dataset, test, trained, device)
        progress(f"test accuracy {_told(config, findings.metrics.accuracy)}; writing the bundle")
        if int8:
            maker = Maker(candidate, dataset, trainer, config.study.seed, progress)
            made = maker.make(findings.network, findings.test)
            stated = findings.metrics.model_copy(update={"int8": made.stated})
            findings = replace(findings, metrics=stated, int8=made.files)
        write_files(bundle, _files(findings))
    return out


def _files(findings: Findings) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for part in parts_of(findings.candidate.architecture):
        files |= part.write(findings)
    return files | {"metrics.json": metrics.written(findings.metrics, files)}


@dataclass(frozen=True)
class _Trained:
    network: nn.Module
    normalization: Normalization
    history: list[dict[str, Any]]  # of a retraining; empty for the trial's own weights
    retrained: bool


def _retrained(
    trainer: Trainer, trial: FrozenTrial, candidate: Candidate, progress: Announce
) -> _Trained:
    training = trainer.training(candidate)
    _train(training, candidate.recipe.epochs, f"retraining trial {trial.number}", progress)
    history = [asdict(record) for record in training.history]
    return _Trained(training.evaluated, trainer.normalization, history, retrained=True)


def _as_in_trial(
    trainer: Trainer, runs: Path, trial: FrozenTrial, candidate: Candidate, progress: Announce
) -> _Trained:
    """The weights that the trial left, or what the same training makes again."""
    network = _kept(latest_checkpoint(runs, trial), trainer, candidate, progress)
    if network is None:
        training = trainer.training(candidate)
        # A trial ends where it meets the target, maybe before its last epoch.
        epochs = len(Attributes.of(trial).history or ()) or candidate.recipe.epochs
        _train(training, epochs, f"training trial {trial.number} again", progress)
        network = training.evaluated
    return _Trained(network, trainer.normalization, [], retrained=False)


def _kept(
    path: Path, trainer: Trainer, candidate: Candidate, progress: Announce
) -> nn.Module | None:
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:
        progress(str(error))
        return None
    if state is None:
        progress(f"{path}: the trial's weights are not here")
        return None
    network = trainer.build(candidate.architecture)
    network.load_state_dict(state["network"])
    return network


def _train(training: Training, epochs: int, what: str, progress: Announce) -> None:
    while training.epoch < epochs:
        record = training.run_epoch()
        spent = wording.duration(record.seconds)
        progress(f"{what}: epoch {record.epoch}/{epochs}, loss {record.train_loss:.4f}, {spent}")


def _require_fit(network: Network, dataset: Dataset) -> None:
    if (network.input, network.classes) != (dataset.input, len(dataset.classes)):
        raise ConfigError(
            f"the trial saw images {list(network.input)} of {network.classes} "
            f"classes, but the data has {list(dataset.input)} of {len(dataset.classes)}; "
            "name the study's own with --set data.root=DIR"
        )


def _findings(
    study: optuna.Study,
    config: StudyConfig,
    trial: FrozenTrial,
    candidate: Candidate,
    dataset: Dataset,
    test: Images,
    trained: _Trained,
    device: torch.device,
) -> Findings:
    # On the CPU in full precision, as the bundle is proved anywhere.
    network = trained.network.cpu().eval()
    result = evaluate(network, test, trained.normalization, torch.device("cpu"))
    verdict = check(candidate.architecture, config.rules)
    summary = summarize(study, config)
    return Findings(
        config=config,
        number=trial.number,
        candidate=candidate,
        verdict=verdict,
        network=network,
        dataset=dataset,
        test=test,
        logits=result.logits,
        history=[dict(epoch) for epoch in Attributes.of(trial).history or ()],
        retraining=trained.history,
        summary=summary,
        rivals=rivals(study, config, summary, trial.number),
        importance=importances(study),
        metrics=Metrics(
            version=1,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            study=study.study_name,
            trial=trial.number,
            architecture=candidate.architecture.hash,
            candidate=candidate.hash,
            accuracy=Accuracy.of(result, test, dataset.classes, trial.values[0]),
            target=config.study.target,
            search=Search.of(summary),
            retrained=trained.retrained,
            receptive_field=verdict.analysis.smaller_field,
            parameters=verdict.analysis.parameters,
            macs=verdict.analysis.macs,
            cost=_cost(study, trial, candidate, trained.history),
            data=Data.of(dataset, test, trained.normalization),
            recipe=candidate.recipe,
            seeds=seeds(config, candidate),
            versions=versions(),
            hardware=hardware(device),
            onnx_opset=ONNX_OPSET,
            files={},
        ),
    )


def _told(config: StudyConfig, accuracy: Accuracy) -> str:
    """The accuracy on the test images, and the one that the search went by."""
    told = wording.percent(accuracy.test)
    if config.study.balanced:
        told += f", balanced {wording.percent(accuracy.test_balanced)}"
    return told


def _cost(
    study: optuna.Study,
    trial: FrozenTrial,
    candidate: Candidate,
    retraining: list[dict[str, Any]],
) -> dict[str, float | None]:
    carried = Attributes.of(trial)
    trials = map(Attributes.of, study.get_trials(deepcopy=False))
    images = retraining[-1]["images"] if retraining else 0
    return {
        "trial_pflop": carried.pflop or 0.0,
        "trial_pflop_to_target": carried.pflop_to_target,
        "retraining_pflop": candidate.pflop(len(retraining), images),
        "study_pflop": sum(each.pflop or 0.0 for each in trials if each.taken is None),
    }
