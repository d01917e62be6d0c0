"""What each command of the command line does; each answers with its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import constraints
from constraints import Limits
from search import config as configuration
from search import data, explain, terminal, wording
from search.config import DEFAULT_LIMITS, ConfigError, concealed
from search.crew import Ending
from search.proposals import Acceptance, propose
from search.storage import artifact_store, redacted
from search.study import Study
from space import Architecture, ArchitectureError

TARGETS = "TARGET is an architecture's JSON, STUDY:TRIAL, file.py:factory or package.module:factory"
LARGEST = 65_536  # the longest axis of an --input
RARE = 0.001  # of proposals accepted: below it, launch warns


def launch(
    file: Path,
    overrides: Sequence[str],
    storage: str | None,
    *,
    workers: int,
    per_gpu: int | None,
    device: str,
    ray: str | None,
) -> int:
    """Creates or resumes the study of `file` and runs it in worker processes."""
    study = Study(file, overrides=overrides, storage=storage)
    study.prepare()  # what is wrong or not there is told before torch is imported
    with study.cluster(ray):
        terminal.note(_place(device, ray))
        _tell(study.estimate())
        again = _again(file, overrides, storage)
        ending = _run(study, again, workers=workers, device=device, per_gpu=per_gpu, ray=ray)
    return ending.code


def _place(device: str, ray: str | None) -> str:
    """Where the workers will run."""
    if ray is not None:
        from search import cluster

        return cluster.describe()
    from search.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"


def _again(file: Path, overrides: Sequence[str], storage: str | None) -> list[str]:
    """What to type to go on; a storage that holds what may be secret is left to `STUDY_STORAGE`."""
    words = ["launch", str(file)]
    told = [("--set", change) for change in overrides]
    told += [("--storage", storage)] if storage is not None else []
    for option, value in told:
        if concealed(value) == value:
            words += [option, value]
    return words


def _run(study: Study, again: Sequence[str], **places: Any) -> Ending:
    """Launches the study under the live view."""
    from search.dashboard import Refresher

    running = study.create()
    terminal.note(f"study: {study.name} in {redacted(study.url)}")
    refresher = Refresher(running)
    with terminal.LiveView(running, study.config) as view:

        def tick() -> None:
            view.update()
            refresher.tick(view.summary)

        ending = study.launch(**places, tick=tick)
    view.finish(ending.reason, f"run_study.py {_next(study.name, ending.code, again)}")
    refresher.tick(view.summary, at_once=True)
    return ending


def _tell(acceptance: Acceptance) -> None:
    if acceptance.share < RARE:
        terminal.note(f"warning: hardly a proposal is accepted; {acceptance.summary()}")
    else:
        terminal.note(
            f"of {acceptance.proposed:,} random proposals the checker accepts "
            f"{wording.percent(acceptance.share)}"
        )


def _next(name: str, code: int, launch: Sequence[str]) -> str:
    if code == 0:
        return f"export {name}"
    return f"status {name}" if code == 1 else shlex.join(launch)


def worker(name: str, overrides: Sequence[str], storage: str | None, *, device: str) -> int:
    """Runs trials of an existing study in this process."""
    ending = Study(name, overrides=overrides, storage=storage).work(device=device)
    terminal.note(ending.reason)
    return ending.code


def status(name: str, storage: str | None, *, as_json: bool) -> int:
    """Shows what a study has come to."""
    study = Study(name, storage=storage).load()
    if as_json:
        _print_json(terminal.status_json(study))
    else:
        terminal.show(terminal.render_status(study))
    return 0


def sample(file: Path, n: int, overrides: Sequence[str], *, as_json: bool) -> int:
    """Proposes `n` candidates and trains none."""
    config = configuration.load(file, overrides)
    shape, classes = data.describe(config.data)
    acceptance, accepted = Acceptance(), []
    draw = propose(config, shape, classes, random.Random(config.study.seed))
    for proposal, _ in zip(draw, range(n), strict=False):
        acceptance.add(proposal)
        if proposal.accepted:
            accepted.append(config.candidate(proposal.choices, input=shape, classes=classes))
    if as_json:
        networks = [candidate.architecture.to_json() for candidate in accepted]
        _print_json({**acceptance.to_json(), "candidates": networks})
    else:
        terminal.show(terminal.render_sample(acceptance, accepted))
    return 0 if accepted else 1


def check(
    target: str, shape: str | None, limits: Path | None, storage: str | None, *, as_json: bool
) -> int:
    """Judges one network by the rules."""
    rules, network = _resolve(target, _shapes(shape), storage)
    if shape is not None and isinstance(network, Architecture):
        network = _on(network, *_shapes(shape))
    if limits is not None:
        rules = configuration.load(limits).rules
    verdict = constraints.check(network, rules)
    if as_json:
        _print_json(verdict.to_json())
    else:
        advice = _advice(network, verdict, rules)
        terminal.show(terminal.render_check(verdict, rules, name=target, advice=advice))
    return 0 if verdict.accepted else 1


def _advice(
    network: Architecture | constraints.Graph, verdict: constraints.Verdict, rules: Limits
) -> list[str]:
    lines = list(explain.advice(verdict.analysis))
    if isinstance(network, Architecture):
        remedy = explain.remedy(network, rules)
        lines = [f"the nearest legal network: {remedy}", *lines] if remedy else lines
    return lines


def _shapes(text: str | None) -> list[tuple[int, ...]]:
    """The input shapes to try: the one that is named, else CIFAR's and ImageNet's."""
    if text is None:
        return [(3, 32, 32), (3, 224, 224)]
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape, default=0) < 1:
        raise ConfigError(f"--input {text}: must read C,H,W, such as 3,32,32")
    if max(shape) > LARGEST:
        raise ConfigError(f"--input {text}: no axis may be longer than {LARGEST:,}")
    return [shape]


def _on(network: Architecture, shape: tuple[int, ...]) -> Architecture:
    """The same layers on an image of `shape`."""
    if len(shape) != 3:
        raise ConfigError(f"--input {list(shape)}: an architecture reads C,H,W")
    channels, height, width = shape
    return dataclasses.replace(network, input=(channels, height, width))


def _resolve(
    target: str, shapes: Sequence[tuple[int, ...]], storage: str | None
) -> tuple[Limits, Architecture | constraints.Graph]:
    """The network that TARGET names, and the limits it came with."""
    rules = Limits.from_mapping(DEFAULT_LIMITS)
    left, _, right = target.rpartition(":")
    if left and right.isdecimal():
        study = Study(left, storage=storage)
        trials = {trial.number: trial for trial in study.load().get_trials(deepcopy=False)}
        trial = trials.get(int(right))
        if trial is None or "architecture" not in trial.user_attrs:
            raise ConfigError(f"{target}: study {left} has no such trial with an architecture")
        return study.config.rules, Architecture.from_json(trial.user_attrs["architecture"])
    if left and not Path(target).exists():
        return rules, _traced(target, shapes)
    return rules, read_architecture(Path(target))


def _traced(target: str, shapes: Sequence[tuple[int, ...]]) -> constraints.Graph:
    from search.trace import TraceError, UnknownOperationError, load_factory, make, trace

    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is no result
        module = make(load_factory(target))
        failures: list[TraceError] = []
        for shape in shapes:
            try:
                graph = trace(module, shape)
            except TraceError as error:
                failures.append(error)
                continue
            if failures:
                terminal.note(f"{target} does not take {list(shapes[0])}; read at {list(shape)}")
            return graph
    # An operation that is not known is the reason at any size.
    unknown = [error for error in failures if isinstance(error, UnknownOperationError)]
    raise (unknown or failures)[-1]


def read_architecture(path: Path) -> Architecture:
    """The architecture in a JSON file.

    Raises:
        ConfigError: one line that names the file and what is wrong in it.
    """
    try:
        return Architecture.from_json(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: no JSON ({error}); {TARGETS}") from None
    except ArchitectureError as error:
        raise ConfigError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file") from None
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {TARGETS}") from None


def dashboard(
    name: str, storage: str | None, *, host: str, port: int, token: bool, write: bool
) -> int:
    """Serves a study to browsers until Ctrl-C."""
    from search.dashboard import serve

    study = Study(name, storage=storage)
    serve(
        study.load(),
        artifact_store(study.runs),
        host=host,
        port=port,
        write=write,
        token=_token(token),
        announce=terminal.note,
    )
    return 0


def _token(asked: bool) -> str | None:
    """What a browser must present; no word of the command, which other users could read."""
    return os.environ.get("STUDY_TOKEN") or (secrets.token_urlsafe() if asked else None)


def export(
    name: str,
    storage: str | None,
    overrides: Sequence[str],
    *,
    trial: int | None,
    out: Path | None,
    retrain: bool,
    device: str,
) -> int:
    """Writes the bundle of a study's winner."""
    study = Study(name, overrides=overrides, storage=storage)
    bundle = study.export(out, trial=trial, retrain=retrain, device=device, progress=terminal.note)
    root = study.config.data.root
    elsewhere = f" --data {shlex.quote(str(root))}" if root.is_absolute() else ""
    terminal.note(f"next: run_study.py verify {bundle}{elsewhere}")
    terminal.show(str(bundle / "README.md"))
    return 0


def verify(bundle: Path, root: Path | None, *, as_json: bool) -> int:
    """Proves a bundle again."""
    from search.verify import verify as prove

    findings = prove(bundle, root)
    _show_findings(findings, as_json=as_json)
    return 1 if any(finding.ok is False for finding in findings) else 0


def doctor(
    file: Path, overrides: Sequence[str], storage: str | None, *, device: str, as_json: bool
) -> int:
    """Tells what is there and what is missing."""
    from search.doctor import examine

    findings = examine(configuration.load(file, overrides), storage, device)
    _show_findings(findings, as_json=as_json)
    return 0 if all(finding.ok for finding in findings) else 3


def _show_findings(findings: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
        return
    for finding in findings:
        mark = {True: "✓", False: "✗", None: "–"}[finding.ok]
        terminal.show(f"{mark} {finding.name}: {finding.detail}")
        if not finding.ok and getattr(finding, "mend", None):
            terminal.show(f"  try: {finding.mend}")


def _print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))
