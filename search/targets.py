"""What a command line names as TARGET, as a network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from constraints import Limits
from search.analysis.graph import Graph
from search.config.candidate import Recipe
from search.config.sections import DEFAULT_LIMITS
from search.display import terminal
from search.errors import ConfigError, NoStudyError
from search.networks.architecture import Architecture, ArchitectureError
from search.storage.places import STUDIES
from search.storage.trials import architecture_of, candidate_of
from search.study import Study

TARGETS = "TARGET is an architecture's JSON, STUDY:TRIAL, file.py:factory or package.module:factory"
LARGEST = 65_536  # the longest axis of an --input


def study_of(source: str, overrides: Sequence[str] = (), storage: str | None = None) -> Study:
    """The study that a file describes, or that a database holds under a name.

    A name that no database holds yet may be that of a file in studies/.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(source)
    if path.suffix == ".json":
        raise ConfigError(f"{source}: an architecture is no study file; `check` takes it")
    if path.suffix == ".toml" or len(path.parts) > 1 or path.is_file():
        return Study(path, overrides=overrides, storage=storage)
    try:
        return Study(source, overrides=overrides, storage=storage)
    except NoStudyError:
        files = [file for file in (path, STUDIES / f"{source}.toml") if file.exists()]
        if not files:
            raise
        return Study(files[0], overrides=overrides, storage=storage)


def input_shapes(text: str | None) -> list[tuple[int, ...]]:
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


def with_input(network: Architecture, shape: tuple[int, ...]) -> Architecture:
    """The same layers on an image of `shape`."""
    if len(shape) != 3:
        raise ConfigError(f"--input {list(shape)}: an architecture reads C,H,W")
    channels, height, width = shape
    return dataclasses.replace(network, input=(channels, height, width))


def resolve(
    target: str, shapes: Sequence[tuple[int, ...]], storage: str | None
) -> tuple[Limits, Architecture | Graph]:
    """The network that TARGET names, and the limits it came with."""
    rules = Limits.from_mapping(DEFAULT_LIMITS)
    if _names_trial(target):
        study, trial = _trial(target, storage)
        return study.config.rules, architecture_of(trial)
    if _names_factory(target):
        return rules, _traced(target, shapes)
    return rules, read_architecture(Path(target))


def given_network(target: str, storage: str | None) -> tuple[Architecture, Recipe | None]:
    """The network that TARGET names, to be trained, and the recipe of a trial.

    Raises:
        ConfigError: it names none, or a module.
    """
    if _names_trial(target):
        candidate = candidate_of(_trial(target, storage)[1])
        return candidate.architecture, candidate.recipe
    if _names_factory(target):
        raise ConfigError(
            f"{target}: a module can be checked, but not be a trial: finalists, exported code and "
            "every proof are made from an architecture's JSON (studies/baseline.json is one); "
            "write it as such, or name STUDY:TRIAL"
        )
    return read_architecture(Path(target)), None


def beginning(source: str, storage: str | None) -> Study | tuple[Architecture, Recipe | None]:
    """What `launch --from` names: another study (a file, a name or URL:NAME), or a network.

    Raises:
        ConfigError: it names neither.
    """
    url, _, name = source.rpartition(":")
    if Path(source).suffix == ".json" or _names_trial(source):
        return given_network(source, storage)
    if "://" in url:
        return Study(name, storage=url)
    if url and not Path(source).exists():
        return given_network(source, storage)
    return study_of(source, storage=storage)


def _names_trial(target: str) -> bool:
    left, _, right = target.rpartition(":")
    return bool(left) and right.isdecimal()


def _names_factory(target: str) -> bool:
    return ":" in target and not Path(target).exists()


def _trial(target: str, storage: str | None) -> tuple[Study, FrozenTrial]:
    name, _, number = target.rpartition(":")
    study = Study(name, storage=storage)
    trials = {trial.number: trial for trial in study.load().get_trials(deepcopy=False)}
    if int(number) not in trials:
        raise ConfigError(f"{target}: study {name} has no such trial")
    return study, trials[int(number)]


def _traced(target: str, shapes: Sequence[tuple[int, ...]]) -> Graph:
    from search.analysis.tracing.loading import (
        TraceError,
        UnknownOperationError,
        load_factory,
        make,
    )
    from search.analysis.tracing.trace import trace

    with _silent():
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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What foreign code prints, its C code and its children too, is no result: to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


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
