"""A study file: what is searched, under which limits, on which data, for how long.

`load` reads TOML, applies `--set` overrides and answers with a frozen `StudyConfig`, or
raises a `ConfigError` that names the key, the value and the rule.  Nothing is written
and nothing is started here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from constraints import Limits, count_macs
from space import (
    BLOCK_NAMES,
    Architecture,
    Choice,
    Domain,
    FloatRange,
    IntRange,
    Scalar,
    SearchSpace,
    Setting,
    setting,
)

Optimizer = Literal["muon", "sgd"]
Schedule = Literal["linear", "onecycle"]
Objective = Literal["accuracy", "macs", "parameters", "seconds"]

# Keys of `[study]` that a study may change when it is resumed.
RESUMABLE = ("target", "trials", "hours", "failures", "minutes", "proposals")

# The requirement of the C1C2C3C40 assignment; a study file overrules it key by key.
DEFAULT_LIMITS: dict[str, int] = {
    "receptive_field": 44,
    "parameters": 200_000,
    "downsampling": 3,
    "depthwise_separable": 1,
    "dilated": 1,
}


class ConfigError(ValueError):
    """Bad usage or bad input: exit code 2."""


class MachineError(RuntimeError):
    """Data, device, storage or disk is not as it must be: exit code 3."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudySection(_Section):
    """`[study]`: what is optimized, by which sampler, until when.

    `target` is a validation accuracy; `trials` and `hours` are the budget; `proposals`
    bounds how many candidates the checker may reject in a row; `failures` how many trials
    may fail in a row; `minutes` how long one trial may take; `storage` is a database's
    URL, kept out of everything that is printed or stored because it may hold a password.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("accuracy",)
    target: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    sampler: Literal["tpe", "gp", "nsga2", "cmaes", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["none", "median", "asha", "hyperband"] = "asha"
    trials: Annotated[int, Field(ge=1, strict=True)] = 100
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    repeats: Annotated[int, Field(ge=1, strict=True)] = 1
    proposals: Annotated[int, Field(ge=1, strict=True)] = 100_000
    failures: Annotated[int, Field(ge=1, strict=True)] = 5
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    storage: Annotated[str | None, Field(min_length=1, exclude=True, repr=False)] = None

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
            raise ValueError(
                "must begin with a letter or a digit and hold only letters, digits, '.', '_' "
                "and '-', but not '..', since it names files"
            )
        return name

    @field_validator("objectives")
    @classmethod
    def _accuracy_first(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if objectives[0] != "accuracy" or len(set(objectives)) != len(objectives):
            raise ValueError(f"must begin with accuracy and repeat nothing, but got {objectives}")
        return objectives

    @model_validator(mode="after")
    def _pruning_has_one_goal(self) -> StudySection:
        if len(self.objectives) > 1 and self.pruner != "none":
            raise ValueError("several objectives need pruner = 'none': Optuna prunes by one value")
        return self


class DataSection(_Section):
    """`[data]`: which images.  `validation` is the share of the training set held out."""

    kind: Literal["cifar10", "imagefolder", "digits"] = "cifar10"
    root: Path = Path("data")
    validation: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    image_size: Annotated[int, Field(ge=8, le=1024, strict=True)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0


Unit01 = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class AugmentationSection(_Section):
    """`[augmentation]`: the three albumentations transforms, and nothing else.

    `shift` and `scale` are shares of the image, `rotate` degrees, `hole` pixels.
    `alternate_flips` flips each image in every second augmented epoch, not by chance.
    `strength` multiplies shift, scale, rotate and the probability of CoarseDropout.
    `epochs` augmented epochs are made once and shared by all trials, for each `strength`,
    which takes a few choices and no range: every value is a file of its own.  A training of
    more epochs reads them again, mirrored every second time where `flip_probability` is 0.5.
    """

    flip_probability: Unit01 = 0.5
    alternate_flips: bool = False
    shift: Unit01 = 0.0625
    scale: Unit01 = 0.1
    rotate: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = 10.0
    affine_probability: Unit01 = 0.5
    hole: Annotated[int, Field(ge=1, le=1024, strict=True)] = 16
    hole_probability: Unit01 = 0.5
    strength: Annotated[Setting, setting(float, low=0.0, high=4.0)] = 1.0
    epochs: Annotated[int, Field(ge=1, le=1000, strict=True)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0

    @field_validator("strength")
    @classmethod
    def _few_files(cls, strength: Setting) -> Setting:
        if isinstance(strength, IntRange | FloatRange):
            raise ValueError(f"must be one value or a list of choices, but got {strength}")
        return strength

    @model_validator(mode="after")
    def _every_second(self) -> AugmentationSection:
        if self.alternate_flips and self.flip_probability != 0.5:
            raise ValueError(
                "alternate_flips flips half of the images, so flip_probability must be 0.5, "
                f"but is {self.flip_probability:g}"
            )
        return self


@dataclass(frozen=True)
class Recipe:
    """The training hyperparameters of one candidate.

    `learning_rate` is that of SGD; `matrix_learning_rate` that of Muon, which takes the
    dense convolution weights when `optimizer` is muon.  `warmup` is the share of all
    steps in which the rate rises.  `average` is the horizon, in epochs, of the moving
    average of the weights that is evaluated; 0 evaluates the weights themselves.
    `whitening` fixes the first convolution's filters to principal components of the images'
    patches; `identity` lets dense convolutions begin by passing their input on.  The first
    `small_epochs` (a share of all) train on images whose side is `small_side` of the full
    one; evaluation is always at full size.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    matrix_learning_rate: float
    momentum: float
    matrix_momentum: float
    weight_decay: float
    label_smoothing: float
    schedule: Schedule
    warmup: float
    average: float
    whitening: bool = False
    identity: bool = False
    small_epochs: float = 0.0
    small_side: float = 1.0
    augmentation_strength: float = 1.0
    repeat: int = 0

    def size(self, epoch: int, full: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the training images in `epoch`, counted from 0.

        Sides are multiples of eight pixels, which three strides of two halve evenly.
        """
        if epoch >= self.small_epochs * self.epochs:
            return full
        height, width = (min(side, max(8, 8 * round(self.small_side * side / 8))) for side in full)
        return height, width


class TrainingSection(_Section):
    """`[training]`: each entry one value, a list of choices or a range; see `Recipe`.

    Trials report the accuracy of averaged weights, since early in a training it tells more
    about the end than that of the weights themselves (`docs/results/early_stopping.md`).
    """

    epochs: Annotated[Setting, setting(int, low=1, high=10_000)] = 16
    batch_size: Annotated[Setting, setting(int, low=1, high=65_536)] = 500
    optimizer: Annotated[Setting, setting(str, *get_args(Optimizer))] = "muon"
    learning_rate: Annotated[Setting, setting(float, low=1e-8, high=100.0)] = 0.4
    matrix_learning_rate: Annotated[Setting, setting(float, low=1e-8, high=100.0)] = 0.24
    momentum: Annotated[Setting, setting(float, low=0.0, high=0.9999)] = 0.9
    matrix_momentum: Annotated[Setting, setting(float, low=0.0, high=0.9999)] = 0.6
    weight_decay: Annotated[Setting, setting(float, low=0.0, high=10.0)] = 5e-4
    label_smoothing: Annotated[Setting, setting(float, low=0.0, high=0.9)] = 0.1
    schedule: Annotated[Setting, setting(str, *get_args(Schedule))] = "linear"
    warmup: Annotated[Setting, setting(float, low=0.0, high=0.9)] = 0.0
    average: Annotated[Setting, setting(float, low=0.0, high=100.0)] = 0.3
    whitening: Annotated[Setting, setting(bool)] = True
    identity: Annotated[Setting, setting(bool)] = False
    small_epochs: Annotated[Setting, setting(float, low=0.0, high=1.0)] = 0.0
    small_side: Annotated[Setting, setting(float, low=0.1, high=1.0)] = 0.75
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(frozen=True)
class Candidate:
    """A proposed architecture with its training hyperparameters."""

    architecture: Architecture
    recipe: Recipe

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits; equal for candidates that mean the same training.

        What a recipe leaves at its default does not count, so a key that a later version adds
        changes no hash in an older study.
        """
        values = ((key, getattr(self.recipe, key.name)) for key in fields(self.recipe))
        told = {key.name: value for key, value in values if value != key.default}
        content = f"{self.architecture.hash} {told}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def pflop(self, epochs: int, images: int) -> float:
        """The cost of the first `epochs`, which saw `images` in all: 6 x MACs x images, each
        image at the size at which it was trained on; in PFLOP."""
        channels, *full = self.architecture.input
        sizes = [self.recipe.size(epoch, (full[0], full[1])) for epoch in range(epochs)]
        macs = sum(
            sizes.count(size) * count_macs(replace(self.architecture, input=(channels, *size)))
            for size in set(sizes)
        )
        return 6 * macs * (images / epochs) / 1e15 if epochs else 0.0


class StudyConfig(_Section):
    """A whole study file."""

    study: StudySection
    space: SearchSpace = SearchSpace()
    limits: dict[str, int] = DEFAULT_LIMITS
    data: DataSection = DataSection()
    augmentation: AugmentationSection = AugmentationSection()
    training: TrainingSection = TrainingSection()

    @field_validator("limits", mode="before")
    @classmethod
    def _known_limits(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            raise ValueError("limits must be a table")
        merged = {**DEFAULT_LIMITS, **given}
        Limits.from_mapping(merged)
        return merged

    @cached_property
    def rules(self) -> Limits:
        """The limits as the checker reads them."""
        return Limits.from_mapping(self.limits)

    @cached_property
    def parameters(self) -> dict[str, Domain]:
        """The flat, fixed set of Optuna parameters: architecture, then training."""
        entries = {f"training.{k}": getattr(self.training, k) for k in _RECIPE_KEYS}
        entries["augmentation.strength"] = self.augmentation.strength
        if self.study.repeats > 1:
            entries["repeat"] = IntRange(low=0, high=self.study.repeats - 1)
        searched = {
            k: v for k, v in entries.items() if isinstance(v, Choice | IntRange | FloatRange)
        }
        return {**self.space.parameters, **searched}

    def candidate(
        self, choices: Mapping[str, Any], *, input: tuple[int, int, int], classes: int
    ) -> Candidate:
        """The network and the recipe that one value per parameter means."""
        recipe = {k: choices.get(f"training.{k}", getattr(self.training, k)) for k in _RECIPE_KEYS}
        # Settings without effect must not tell two trials of one training apart.
        if recipe["optimizer"] == "sgd":
            recipe["matrix_learning_rate"] = recipe["matrix_momentum"] = 0.0
        if not recipe["small_epochs"]:
            recipe["small_side"] = 1.0
        return Candidate(
            self.space.architecture(choices, input=input, classes=classes),
            Recipe(
                **recipe,
                augmentation_strength=choices.get(
                    "augmentation.strength", self.augmentation.strength
                ),
                repeat=choices.get("repeat", 0),
            ),
        )

    def to_toml(self) -> str:
        """The study file that means this configuration."""
        return tomli_w.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @property
    def search_hash(self) -> str:
        """Names what a study must keep when it is resumed: everything that trials compare."""
        content = self.model_dump(mode="json", by_alias=True)
        for key in RESUMABLE:
            del content["study"][key]
        del content["data"]["root"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_RECIPE_KEYS = tuple(key for key in TrainingSection.model_fields if key != "precision")


def load(path: Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """The study file at `path` with `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names file, key, value and rule.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such study file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a study file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}{_quoted(path, str(error))}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    for override in overrides:
        _apply(raw, override)
    return parse(raw, str(path))


def _quoted(path: Path, message: str) -> str:
    """The line of the file that a TOML error is about, since it names only the number.

    Not one with a URL: where it does not read, nobody knows which part is the password.
    """
    lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    number = re.search(r"at line (\d+)", message)
    index = int(number[1]) - 1 if number else len(lines) - 1
    line = lines[index].strip() if 0 <= index < len(lines) else ""
    secret = any(sign in line for sign in ("storage", "//", "@"))
    return f": {line}" if line and not secret else ""


def parse(raw: Mapping[str, Any], origin: str) -> StudyConfig:
    """The configuration in `raw`; `origin` names it in errors.

    Raises:
        ConfigError: one line that names key, value and rule.
    """
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error.errors()[0], raw)}") from None


def overridden(config: StudyConfig, overrides: Iterable[str]) -> StudyConfig:
    """`config` with `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names key, value and rule.
    """
    raw = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for override in overrides:
        _apply(raw, override)
    return parse(raw, f"study {config.study.name}")


def require_name(name: str) -> str:
    """`name`, if a study may have it.

    Raises:
        ConfigError: a name that could not be a file's.
    """
    try:
        return StudySection(name=name).name
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"study name {_shown(name)}: {reason}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {concealed(override)}: must read section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is text: --set data.kind=digits
    *path, last = key.strip().split(".")
    table = raw
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {concealed(override)}: {part} is no table")
    table[last] = value


def _explain(error: ErrorDetails, raw: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(_as_written(path, raw))
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    if isinstance(given, Mapping) or repr(given) in message or key == "study.storage":
        return f"{key}: {concealed(message)}"
    return f"{key}: {message} (got {_shown(given)})"


def _shown(value: object) -> str:
    text = concealed(repr(value))
    return text if len(text) <= 100 else f"{text[:97]}..."


# What the URL of a database may ask for and everybody may read.
_HARMLESS = (
    "application_name channel_binding charset client_encoding collation connect_timeout gssencmode "
    "host keepalives keepalives_count keepalives_idle keepalives_interval mode port read_timeout "
    "sslmode target_session_attrs timeout unix_socket uri user write_timeout"
)
HARMLESS = frozenset(_HARMLESS.split())
_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>.*)", re.DOTALL)
_PASSWORD = re.compile(r"pass(?!file)|pwd|secret|token", re.IGNORECASE)


def concealed(text: str) -> str:
    """`text` as it may be shown: without what is, or may be, secret in a URL in it."""
    return _URL.sub(lambda url: f"{url['scheme']}://{_concealed(url['scheme'], url['rest'])}", text)


def _concealed(scheme: str, rest: str) -> str:
    user, password, host = _parted(scheme, rest)
    place, mark, query = (f"{user}:***@{host}" if password else rest).partition("?")
    return place + mark + "&".join(map(_value, query.split("&") if mark else ()))


def _parted(scheme: str, rest: str) -> tuple[str, str, str]:
    """User, password and what follows; a password may hold an @ of its own, and anything else."""
    before, _, host = rest.rpartition("@")
    user, _, password = before.partition(":")
    return ("", "", rest) if scheme.startswith("sqlite") else (user, password, host)


def _value(assignment: str) -> str:
    key, equals, _ = assignment.partition("=")
    if key.lower() in HARMLESS:
        return assignment
    return f"{key}=***" if equals else "***"


def require_no_password(text: str) -> None:
    """Looks at a word of the command line.

    Raises:
        ConfigError: it holds a URL with a password; every user of the machine could read it.
    """
    url = _URL.search(text)
    if url is None:
        return
    _, password, host = _parted(url["scheme"], url["rest"])
    keys = [unquote(part.partition("=")[0]) for part in host.partition("?")[2].split("&")]
    if password or any(map(_PASSWORD.search, keys)):
        raise ConfigError(
            "a password on the command line can be read by every user of this machine; "
            "put the URL into STUDY_STORAGE, or the password into PGPASSFILE"
        )


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is for its owner alone."""
    return os.open(path, flags, 0o600)


def make_private(folder: Path) -> None:
    """Makes `folder`, and what it lies in, for their owner alone; what is there stays as it is."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _as_written(path: list[str], raw: Mapping[str, Any]) -> list[str]:
    """What stands in `[space.block]` is reported there, not in each block it was spread to."""
    if len(path) < 3 or path[0] != "space" or path[1] not in BLOCK_NAMES:
        return path
    own = raw["space"].get(path[1], {})
    return path if path[2] in own else ["space", "block", *path[2:]]


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = StudyConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


__all__ = [
    "DEFAULT_LIMITS",
    "RESUMABLE",
    "AugmentationSection",
    "Candidate",
    "ConfigError",
    "DataSection",
    "MachineError",
    "Objective",
    "Recipe",
    "Scalar",
    "StudyConfig",
    "StudySection",
    "TrainingSection",
    "concealed",
    "load",
    "make_private",
    "parse",
    "private",
    "require_no_password",
]
