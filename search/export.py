"""A study's winner as a bundle that stands on its own: code, weights, ONNX, report, proof."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import optuna
import psutil
import torch
from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import save
from torch import nn

from constraints import Verdict, check
from search import codegen, wording
from search.config import Candidate, ConfigError, Recipe, StudyConfig
from search.data import Dataset, Images, load, load_test
from search.network import build
from search.objective import Objective
from search.report import Findings, importances, write_report
from search.storage import CheckpointError, checkpoint_path, load_checkpoint
from search.summary import summarize
from search.training import (
    Evaluation,
    Normalization,
    Training,
    describe_device,
    evaluate,
)
from space import Architecture, ArchitectureError

ONNX_OPSET = 20
METRICS_VERSION = 1
PACKAGES = (
    "torch", "torchvision", "albumentations", "optuna", "numpy", "onnx", "onnxscript",
    "safetensors", "scikit-learn",
)  # fmt: skip

Progress = Callable[[str], None]


def choose(study: optuna.Study, number: int | None = None) -> FrozenTrial:
    """The trial to export: `number`, or the most accurate completed one (the earlier, of two).

    Raises:
        ConfigError: nothing has completed yet, or not that trial.
    """
    trials = study.get_trials(deepcopy=False)
    completed = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.user_attrs.get("verdict") == "accepted"
    ]
    if number is None:
        if not completed:
            raise ConfigError(
                f"study {study.study_name}: no trial has completed yet; launch it for longer"
            )
        return min(completed, key=lambda trial: (-trial.values[0], trial.number))
    for trial in completed:
        if trial.number == number:
            return trial
    states = {trial.number: trial.state.name.lower() for trial in trials}
    found = f"is {states[number]}" if number in states else "does not exist"
    raise ConfigError(f"study {study.study_name}: trial {number} {found}; export a completed one")


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate that a trial trained, from its user attributes.

    Raises:
        ConfigError: they hold none of this program.
    """
    attributes = trial.user_attrs
    try:
        architecture = Architecture.from_json(attributes["architecture"])
        return Candidate(architecture, Recipe(**attributes["recipe"]))
    except (KeyError, TypeError, ArchitectureError) as error:
        raise ConfigError(f"trial {trial.number} holds no candidate: {error}") from None


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
    progress: Progress = lambda _: None,
) -> Path:
    """Writes the bundle of trial number `trial`, or of the best, to the new directory `out`.

    With `retrain` the candidate is trained again, by the trial's recipe and seed, on
    training and validation images together; else the trial's own weights are exported, or
    trained again as in the trial where they are gone.  Then the test images are read, once.
    `out`, which is returned, comes to be complete or not at all.

    `runs` keeps the study's checkpoints, `cache` its augmented epochs; `processes` make
    those.  `progress` gets a line about each step.

    Raises:
        ConfigError: nothing to export, or `out` cannot be made.
        MachineError: the data is not there.
    """
    chosen = choose(study, trial)
    candidate = candidate_of(chosen)
    with _made_at_once(out) as bundle:
        dataset = load(config.data)
        _require_fit(candidate.architecture, dataset)
        objective = Objective(
            config,
            dataset.joined() if retrain else dataset,
            device,
            runs=runs,
            cache=cache,
            processes=processes,
        )
        train = _retrained if retrain else _as_in_trial
        trained = train(objective, chosen, candidate, progress)
        progress("reading the test images")
        test = load_test(config.data)
        # On the CPU in full precision, as the bundle is proved anywhere.
        network = trained.network.cpu().eval()
        result = evaluate(network, test, trained.normalization, torch.device("cpu"))
        verdict = check(candidate.architecture, config.rules)
        metrics = _metrics(
            study, config, chosen, candidate, verdict, dataset, test, trained, result
        )
        metrics["hardware"] = _hardware(device)
        progress(f"test accuracy {wording.percent(result.accuracy)}; writing the bundle")
        _write_network(bundle, candidate.architecture, network, metrics, trained.normalization)
        _write_json(bundle / "architecture.json", candidate.architecture.to_json())
        (bundle / "study.toml").write_text(config.to_toml(), encoding="utf-8")
        _write_log(bundle / "training_log.csv", chosen, trained)
        write_report(
            Findings(
                config=config,
                number=chosen.number,
                candidate=candidate,
                verdict=verdict,
                dataset=dataset,
                test=test,
                logits=result.logits,
                history=chosen.user_attrs.get("history", []),
                retraining=trained.history,
                summary=summarize(study, config),
                importance=importances(study),
                metrics=metrics,
            ),
            bundle,
        )
        metrics["files"] = _digests(bundle)
        _write_json(bundle / "metrics.json", metrics)
    return out


# --------------------------------------------------------------------------- training


@dataclass(frozen=True)
class _Trained:
    network: nn.Module
    normalization: Normalization
    history: list[dict[str, Any]]  # of a retraining; empty for the trial's own weights
    retrained: bool


def _retrained(
    objective: Objective, trial: FrozenTrial, candidate: Candidate, progress: Progress
) -> _Trained:
    training = objective.training(candidate)
    _train(training, candidate.recipe.epochs, f"retraining trial {trial.number}", progress)
    history = [asdict(record) for record in training.history]
    return _Trained(training.evaluated, objective.normalization, history, retrained=True)


def _as_in_trial(
    objective: Objective, trial: FrozenTrial, candidate: Candidate, progress: Progress
) -> _Trained:
    """The weights that the trial left, or what the same training makes again."""
    network = _kept(checkpoint_path(objective.runs, trial), candidate.architecture, progress)
    if network is None:
        training = objective.training(candidate)
        # A trial ends where it meets the target, maybe before its last epoch.
        epochs = len(trial.user_attrs.get("history", ())) or candidate.recipe.epochs
        _train(training, epochs, f"training trial {trial.number} again", progress)
        network = training.evaluated
    return _Trained(network, objective.normalization, [], retrained=False)


def _kept(path: Path, architecture: Architecture, progress: Progress) -> nn.Module | None:
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:
        progress(str(error))
        return None
    if state is None:
        progress(f"{path}: the trial's weights are not here")
        return None
    network = build(architecture)
    network.load_state_dict(state["network"])
    return network


def _train(training: Training, epochs: int, what: str, progress: Progress) -> None:
    while training.epoch < epochs:
        record = training.run_epoch()
        spent = wording.duration(record.seconds)
        progress(f"{what}: epoch {record.epoch}/{epochs}, loss {record.train_loss:.4f}, {spent}")


def _require_fit(architecture: Architecture, dataset: Dataset) -> None:
    if (architecture.input, architecture.output.classes) != (dataset.input, len(dataset.classes)):
        raise ConfigError(
            f"the trial saw images {list(architecture.input)} of {architecture.output.classes} "
            f"classes, but the data has {list(dataset.input)} of {len(dataset.classes)}; "
            "name the study's own with --set data.root=DIR"
        )


# ---------------------------------------------------------------------------- numbers


def _metrics(
    study: optuna.Study,
    config: StudyConfig,
    trial: FrozenTrial,
    candidate: Candidate,
    verdict: Verdict,
    dataset: Dataset,
    test: Images,
    trained: _Trained,
    result: Evaluation,
) -> dict[str, Any]:
    facts = verdict.analysis
    correct = result.logits.argmax(axis=1) == test.labels
    trials = study.get_trials(deepcopy=False)
    return {
        "version": METRICS_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": study.study_name,
        "trial": trial.number,
        "architecture": candidate.architecture.hash,
        "candidate": candidate.hash,
        "accuracy": {
            "validation": trial.values[0],
            "test": result.accuracy,
            "test_correct": int(correct.sum()),
            "test_loss": result.loss,
            "per_class": {
                name: float(correct[test.labels == k].mean()) if (test.labels == k).any() else None
                for k, name in enumerate(dataset.classes)
            },
        },
        "target": config.study.target,
        "retrained": trained.retrained,
        "receptive_field": min(side for side in facts.receptive_field if side is not None),
        "parameters": facts.parameters,
        "macs": facts.macs,
        "cost": {
            "trial_pflop": trial.user_attrs.get("pflop", 0.0),
            "trial_pflop_to_target": trial.user_attrs.get("pflop_to_target"),
            "retraining_pflop": _pflop(facts.macs, trained.history),
            "study_pflop": sum(t.user_attrs.get("pflop", 0.0) for t in trials),
        },
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(test),
            "mean": list(trained.normalization.mean),
            "std": list(trained.normalization.std),
            "fingerprint": dataset.fingerprint,
            "test_fingerprint": fingerprint(test),
        },
        "recipe": asdict(candidate.recipe),
        "seeds": {
            "study": config.study.seed,
            "data": config.data.seed,
            "augmentation": config.augmentation.seed,
            "repeat": candidate.recipe.repeat,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "onnx_opset": ONNX_OPSET,
    }


def _pflop(macs: int, history: list[dict[str, Any]]) -> float:
    return 6 * macs * history[-1]["images"] / 1e15 if history else 0.0


def fingerprint(images: Images) -> str:
    """Sixteen hexadecimal digits that name images, labels and their order."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(images.pixels.tobytes())
    digest.update(images.labels.tobytes())
    return digest.hexdigest()


def _hardware(device: torch.device) -> dict[str, Any]:
    return {
        "device": describe_device(device),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


# ------------------------------------------------------------------------------ files


@contextmanager
def _made_at_once(out: Path) -> Iterator[Path]:
    """A directory beside `out` that becomes `out` at the end, or vanishes."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; name a new directory with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; name another with --out") from None
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp lets nobody else in
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_network(
    bundle: Path,
    architecture: Architecture,
    network: nn.Module,
    metrics: Mapping[str, Any],
    normalization: Normalization,
) -> None:
    classes = metrics["data"]["classes"]
    source = codegen.generate(
        architecture,
        title=f"The network that trial {metrics['trial']} of study {metrics['study']} found.",
        facts=_facts(metrics),
        classes=classes,
        mean=normalization.mean,
        std=normalization.std,
    )
    (bundle / "model.py").write_text(source, encoding="utf-8")
    weights = {
        codegen.state_key(architecture, key): tensor.detach().contiguous()
        for key, tensor in network.state_dict().items()
    }
    (bundle / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    _write_onnx(bundle / "model.onnx", network, architecture.input)


def _facts(metrics: Mapping[str, Any]) -> list[str]:
    accuracy = metrics["accuracy"]
    return [
        f"{metrics['parameters']:,} parameters; {metrics['macs']:,} multiply-adds for one image; "
        f"receptive field {metrics['receptive_field']} pixels.",
        f"{accuracy['test']:.2%} of {metrics['data']['test']:,} test images classified correctly.",
        "",
        'Weights: network.load_state_dict(safetensors.torch.load_file("model.safetensors")).',
    ]


def _write_onnx(path: Path, network: nn.Module, shape: tuple[int, int, int]) -> None:
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=ONNX_OPSET,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # torch writes the source lines, with their paths on this machine, into every node.
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph):
        item.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_log(path: Path, trial: FrozenTrial, trained: _Trained) -> None:
    """One line per epoch of the trial, then of the retraining."""
    runs = (("search", trial.user_attrs.get("history", [])), ("retraining", trained.history))
    fields = (
        "run", "epoch", "train_loss", "validation_loss", "accuracy", "learning_rate", "images",
        "seconds",
    )  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="", extrasaction="ignore")
        writer.writeheader()
        for run, records in runs:
            for record in records:
                measured = {k: v for k, v in record.items() if v is not None and math.isfinite(v)}
                writer.writerow({"run": run, **measured})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _digests(bundle: Path) -> dict[str, str]:
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
