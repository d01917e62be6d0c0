"""A study file: what is searched, under which limits, on which data, for how long.

`load` reads TOML, applies `--set` overrides and answers with a frozen `StudyConfig`, or
raises a `ConfigError` that names the key, the value and the rule.  Nothing is written
and nothing is started here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from constraints import OFF, Limits, OnDevice
from search.analysis.device import LACKING, RUNNING
from search.config.candidate import Candidate, Optimizer, Recipe, Schedule
from search.config.transforms import Transform
from search.domains import Choice, Domain, FloatRange, IntRange, Setting, setting
from space import SearchSpace, with_halvings

Goal = Literal["accuracy", "macs", "parameters", "seconds", "pflop"]

# Keys of `[study]` that a study may change when it is resumed.
RESUMABLE = (
    "target", "trials", "hours", "failures", "minutes", "proposals", "finalists",
    "finalist_trainings", "track",
)  # fmt: skip

FINALIST_MEASURES = 2
"""Trainings of each finalist before any is preferred: fewer tell nothing about the noise."""

# The requirement of the C1C2C3C40 assignment; a study file overrules it key by key.
DEFAULT_LIMITS: dict[str, int] = {
    "receptive_field": 44,
    "parameters": 200_000,
    "downsampling": 3,
    "depthwise_separable": 1,
    "dilated": 1,
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudySection(_Section):
    """`[study]`: what is optimized, by which sampler, until when.

    `metric` is what the objective accuracy means: of all validation images, or the mean over the
    classes, each of which then counts the same.  `target` is a value of it, which ends the search;
    where the objective pflop is the cost to reach it, it ends trials alone.  `trials` and `hours`
    are the budget; `proposals` bounds how many candidates the checker may reject in a row;
    `failures` how many trials may fail in a row; `minutes` how long one trial may take; `storage`
    is a database's URL, kept out of everything that is printed or stored because it may hold a
    password.

    `finalists` best trials are trained again with fresh seeds when target or budget ends the
    search, until one is the best with 95 % probability or all of them had
    `finalist_trainings` together (four for each, where that is not given).  1 leaves the search's
    own measure; so do several objectives, which have no single best.

    `track` names tools that are told of each trial when it has ended.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    objectives: Annotated[tuple[Goal, ...], Field(min_length=1)] = ("accuracy",)
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    target: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    sampler: str = "tpe+gp"  # `proposals/sampler.py` knows which there are
    pruner: Literal["none", "median", "asha", "hyperband"] = "median"
    trials: Annotated[int, Field(ge=1, strict=True)] = 100
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    repeats: Annotated[int, Field(ge=1, strict=True)] = 1
    proposals: Annotated[int, Field(ge=1, strict=True)] = 100_000
    failures: Annotated[int, Field(ge=1, strict=True)] = 5
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    finalists: Annotated[int, Field(ge=1, le=100, strict=True)] = 3
    finalist_trainings: Annotated[int, Field(ge=FINALIST_MEASURES, strict=True)] | None = None
    track: tuple[str, ...] = ()  # `trackers/named.py` knows which there are
    storage: Annotated[str | None, Field(min_length=1, exclude=True, repr=False)] = None

    @model_validator(mode="before")
    @classmethod
    def _unpruned_where_goals_are_several(cls, data: object) -> object:
        """Names no pruner where nothing was said of one, and Optuna could not prune."""
        if isinstance(data, Mapping):
            match data.get("objectives"):
                case [_, _, *_]:
                    return {"pruner": "none", **data}
        return data

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
            raise ValueError(
                "must begin with a letter or a digit and hold only letters (a to z), digits, '.', "
                "'_' and '-', but not '..', since it names files"
            )
        if name.endswith(".toml"):
            raise ValueError("must not end in .toml, for commands take that for a study file")
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

    @model_validator(mode="after")
    def _cost_has_an_end(self) -> StudySection:
        if "pflop" in self.objectives and self.target is None:
            raise ValueError("the objective pflop is the cost to the target, but target is not set")
        return self

    @model_validator(mode="after")
    def _trainings_tell_the_noise(self) -> StudySection:
        least = FINALIST_MEASURES * self.finalists
        if self.finalists > 1 and self.finalist_training_budget < least:
            raise ValueError(
                f"finalist_trainings must be at least {least}, {FINALIST_MEASURES} for each of "
                f"{self.finalists} finalists, but is {self.finalist_trainings}"
            )
        return self

    def met(self, accuracy: float | None) -> bool:
        """Whether a trial of `accuracy` meets the target: the one rule, for the search, its exit
        code and what is told.  What the search measures once counts; what finalists' trainings
        and test images tell stands beside it, and takes nothing back."""
        return self.target is not None and accuracy is not None and accuracy >= self.target

    @property
    def unsaid(self) -> frozenset[str]:
        """What nothing was said of and no resume may change: a study has it as it was begun."""
        return frozenset(type(self).model_fields) - self.model_fields_set - {*RESUMABLE, "storage"}

    @property
    def balanced(self) -> bool:
        """Whether an accuracy counts each class alike, and not each image."""
        return self.metric == "balanced_accuracy"

    @property
    def measure(self) -> str:
        """What the accuracies of its trials are: `accuracy` or `balanced accuracy`."""
        return self.metric.replace("_", " ")

    @property
    def goes_on(self) -> bool:
        """Whether the target ends trials alone, and the search looks for a lower cost to it."""
        return "pflop" in self.objectives

    @property
    def finalist_training_budget(self) -> int:
        """How often the finalists may be trained, all together."""
        given = self.finalist_trainings
        return 4 * self.finalists if given is None else given


class DataSection(_Section):
    """`[data]`: which images.  `validation` is the share of the training set held out
    where there are no validation images beside it.

    `kind` is cifar10, digits, imagefolder, npz, or torchvision with the `name` of one of its data
    sets.  `channels` is 1 for gray images, 3 for color; unset, it is 3, but what the data has for
    npz and torchvision.  `test` is the share of the training images that serves as the test set
    of a folder or file without one.
    """

    kind: str = "cifar10"
    name: str | None = None
    root: Path = Path("data")
    channels: Literal[1, 3] | None = None
    test: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    validation: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    image_size: Annotated[int, Field(ge=8, le=1024, strict=True)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0

    @field_validator("root")
    @classmethod
    def _at_home(cls, root: Path) -> Path:
        """What a shell makes of `~`, which it leaves alone in a file and behind `data.root=`."""
        try:
            return root.expanduser()
        except RuntimeError:
            raise ValueError(f"there is no home directory {root.parts[0]}") from None


Unit01 = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class AugmentationSection(_Section):
    """`[augmentation]`: the three albumentations transforms, then those of `extra`.

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
    extra: tuple[Transform, ...] = ()

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
    small_crop: Annotated[Setting, setting(bool)] = False
    class_weights: Annotated[Setting, setting(bool)] = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class StudyConfig(_Section):
    """A whole study file."""

    study: StudySection
    space: SearchSpace = SearchSpace()
    limits: Annotated[Mapping[str, int | Literal["off"]], Field(validate_default=True)] = (
        DEFAULT_LIMITS
    )
    data: DataSection = DataSection()
    augmentation: AugmentationSection = AugmentationSection()
    training: TrainingSection = TrainingSection()

    @model_validator(mode="before")
    @classmethod
    def _as_many_halvings_as_asked(cls, data: object) -> object:
        """Gives the transitions that say nothing the halvings that `limits.downsampling` asks."""
        if not isinstance(data, Mapping):
            return data
        limits, space = data.get("limits", {}), data.get("space", {})
        if not isinstance(limits, Mapping) or not isinstance(space, Mapping):
            return data
        total = limits.get("downsampling", DEFAULT_LIMITS["downsampling"])
        return {**data, "space": with_halvings(space, total)} if isinstance(total, int) else data

    @field_validator("limits", mode="before")
    @classmethod
    def _known_limits(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            raise ValueError("limits must be a table")
        merged = {**DEFAULT_LIMITS, **given}
        asked = Limits.from_mapping(merged).to_mapping()
        return {name: asked.get(name, OFF) for name in merged}

    @field_validator("limits")
    @classmethod
    def _filled(cls, limits: dict[str, Any], read: ValidationInfo) -> dict[str, Any]:
        space = read.data.get("space")
        if space and space.fill and limits.get(space.fill.limit, OFF) == OFF:
            raise ValueError(
                f"space.fill.limit is {space.fill.limit}, so there must be such a limit"
            )
        return limits

    @model_validator(mode="after")
    def _runs_somewhere(self) -> StudyConfig:
        if len(self.lacking) == len(self._activations):
            raise ValueError(
                f"TensorFlow Lite Micro has no {', '.join(self.lacking)}, and "
                f"{' and '.join(rule.key for rule in self._device_rules)} are of its memory; "
                f"space.activation can be {RUNNING}"
            )
        return self

    @property
    def _activations(self) -> tuple[object, ...]:
        given = self.space.activation
        return given.values if isinstance(given, Choice) else (given,)

    @property
    def _device_rules(self) -> list[OnDevice]:
        return [rule for rule in self.rules.rules if isinstance(rule, OnDevice)]

    @property
    def lacking(self) -> tuple[str, ...]:
        """Activations of the space that a microcontroller lacks, where a limit is of its memory:
        no network with one of them is legal."""
        found = (str(value) for value in self._activations if value in LACKING)
        return tuple(found) if self._device_rules else ()

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

    @cached_property
    def recipe_parameters(self) -> dict[str, Domain]:
        """Those of `parameters` that mean the recipe."""
        return {k: v for k, v in self.parameters.items() if k not in self.space.parameters}

    def candidate(
        self, choices: Mapping[str, Any], *, input: tuple[int, int, int], classes: int
    ) -> Candidate:
        """The network and the recipe that one value per parameter means."""
        architecture = self.space.architecture(choices, input=input, classes=classes)
        return Candidate(architecture, self.recipe(choices))

    def recipe(self, choices: Mapping[str, Any]) -> Recipe:
        """The recipe that one value per entry of `recipe_parameters` means."""
        recipe = {k: choices.get(f"training.{k}", getattr(self.training, k)) for k in _RECIPE_KEYS}
        # Settings without effect must not tell two trials of one training apart.
        if recipe["optimizer"] == "sgd":
            recipe["matrix_learning_rate"] = recipe["matrix_momentum"] = 0.0
        if not recipe["small_epochs"]:
            recipe["small_side"], recipe["small_crop"] = 1.0, False
        return Recipe(
            **recipe,
            augmentation_strength=choices.get("augmentation.strength", self.augmentation.strength),
            repeat=choices.get("repeat", 0),
        )

    def to_toml(self) -> str:
        """The study file that means this configuration."""
        return tomli_w.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))


_RECIPE_KEYS = tuple(key for key in TrainingSection.model_fields if key != "precision")
