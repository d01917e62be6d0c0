"""What each command of the command line does; each answers with its exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import constraints
from constraints import Limits
from search.analysis import advice
from search.analysis.graph import Graph
from search.config import files as configuration
from search.config.secrecy import concealed
from search.data import datasets
from search.display import terminal, wording
from search.display.live import LiveView
from search.networks.architecture import Architecture
from search.proposals import remedy
from search.proposals.proposer import Acceptance, propose
from search.storage.checkpoints import artifact_store
from search.storage.places import redacted
from search.study import Study
from search.targets import input_shapes, resolve, with_input
from search.workers.supervisor import Ending

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
        from search.workers import cluster

        return cluster.describe()
    from search.training.devices import choose_device, describe_device

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
    from search.display.dashboard.refresh import Refresher

    running = study.create()
    terminal.note(f"study: {study.name} in {redacted(study.url)}")
    refresher = Refresher(running)
    with LiveView(running, study.config) as view:

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
    shape, classes = datasets.describe(config.data)
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
    rules, network = resolve(target, input_shapes(shape), storage)
    if shape is not None and isinstance(network, Architecture):
        network = with_input(network, *input_shapes(shape))
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
    network: Architecture | Graph, verdict: constraints.Verdict, rules: Limits
) -> list[str]:
    lines = list(advice.advice(verdict.analysis))
    if isinstance(network, Architecture):
        nearest = remedy.remedy(network, rules)
        lines = [f"the nearest legal network: {nearest}", *lines] if nearest else lines
    return lines


def dashboard(
    name: str, storage: str | None, *, host: str, port: int, token: bool, write: bool
) -> int:
    """Serves a study to browsers until Ctrl-C."""
    from search.display.dashboard.server import serve

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
    from search.bundles.verify import verify as prove

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
