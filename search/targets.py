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
from search.analysis.traced import TracedModule
from search.config.candidate import Recipe
from search.config.sections import DEFAULT_LIMITS
from search.data import datasets
from search.display import terminal
from search.errors import ConfigError, NoStudyError
from search.networks.architecture import Architecture, ArchitectureError
from search.networks.network import Network
from search.proposals.asked import recipe_choices
from search.storage.places import home
from search.storage.trials import architecture_of, candidate_of
from search.study import Study

TARGETS = "TARGET is an architecture's JSON, STUDY:TRIAL, file.py:factory or package.module:factory"
LARGEST = 65_536  # the longest axis of an --input


def study_of(
    source: str,
    overrides: Sequence[str] = (),
    storage: str | None = None,
    modules: Sequence[str] = (),
) -> Study:
    """The study that a file describes, or that a database holds under a name.

    A name that no database holds yet may be that of a file in studies/.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(source)
    if path.suffix == ".json":
        raise ConfigError(
            f"{source}: an architecture is no study file; `check` takes it, and beside a study "
            "file `train` and `launch --from` do"
        )
    if path.suffix == ".toml" or len(path.parts) > 1 or path.is_file():
        return Study(path, overrides=overrides, storage=storage, modules=modules)
    try:
        return Study(source, overrides=overrides, storage=storage, modules=modules)
    except NoStudyError:
        files = [file for file in (path, home() / f"{source}.toml") if file.exists()]
        if not files:
            raise
        return Study(files[0], overrides=overrides, storage=storage, modules=modules)


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


def with_input(network: Network, shape: tuple[int, ...]) -> Architecture:
    """The same layers on an image of `shape`."""
    if not isinstance(network, Architecture):
        raise ConfigError(f"--input {list(shape)}: a trial's module was read at its own images")
    if len(shape) != 3:
        raise ConfigError(f"--input {list(shape)}: an architecture reads C,H,W")
    channels, height, width = shape
    return dataclasses.replace(network, input=(channels, height, width))


def resolve(
    target: str, shapes: Sequence[tuple[int, ...]], storage: str | None
) -> tuple[Limits, Network | Graph]:
    """The network that TARGET names, and the limits it came with."""
    rules = Limits.from_mapping(DEFAULT_LIMITS)
    if _names_trial(target):
        study, trial = _trial(target, storage)
        return study.config.rules, architecture_of(trial)
    if names_factory(target):
        return rules, _traced(target, shapes)
    return rules, read_architecture(Path(target))


def given_network(target: str, storage: str | None) -> tuple[Architecture, Recipe | None]:
    """The network that TARGET, a JSON or a trial, names, and the recipe of a trial.

    Raises:
        ConfigError: it names none, or one that is code.
    """
    if not _names_trial(target):
        return read_architecture(Path(target)), None
    candidate = candidate_of(_trial(target, storage)[1])
    network = candidate.architecture
    if isinstance(network, TracedModule):
        raise ConfigError(f"{target} is code: {network.name}; `train` takes that file")
    assert isinstance(network, Architecture)
    return network, candidate.recipe


def given_module(target: str, study: Study) -> TracedModule:
    """The module that TARGET names, as the study would train it.

    Raises:
        ConfigError: it cannot be trained on the study's images.
    """
    from search.analysis.tracing.loading import read_source
    from search.training.modules import read

    shape, classes = datasets.describe(study.config.data)
    recipe = study.config.recipe(recipe_choices(study.config, None))
    with silent():
        return read(read_source(target), shape, classes, recipe)


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
    if names_factory(source):
        raise ConfigError(
            f"{source}: no space expresses a module; train it beside the search, or begin with "
            "an architecture's JSON"
        )
    return study_of(source, storage=storage)


def _names_trial(target: str) -> bool:
    left, _, right = target.rpartition(":")
    return bool(left) and right.isdecimal()


def names_factory(target: str) -> bool:
    """Whether TARGET is code: `file.py:factory` or `package.module:factory`."""
    return ":" in target and not _names_trial(target) and not Path(target).exists()


def _trial(target: str, storage: str | None) -> tuple[Study, FrozenTrial]:
    name, _, number = target.rpartition(":")
    study = Study(name, storage=storage)
    trials = {trial.number: trial for trial in study.load().get_trials(deepcopy=False)}
    if int(number) not in trials:
        raise ConfigError(f"{target}: study {name} has no such trial")
    return study, trials[int(number)]


def _traced(target: str, shapes: Sequence[tuple[int, ...]]) -> Graph:
    from search.analysis.tracing.errors import TraceError, UnknownOperationError
    from search.analysis.tracing.loading import load_factory, make
    from search.analysis.tracing.trace import trace

    with silent():
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
def silent() -> Iterator[None]:
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
        return Architecture.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except json.JSONDecodeError as error:
        if path.suffix == ".py":
            raise ConfigError(f"{path}: name the class or function in it: {path}:NAME") from None
        raise ConfigError(f"{path}: no JSON ({error}); {TARGETS}") from None
    except ArchitectureError as error:
        raise ConfigError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file in UTF-8; save it as one") from None
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {TARGETS}") from None
