"""Writes docs/reference.md from the code: `python -m docs.make_reference`.

Keys, defaults, bounds, limits and options are read off the models and the command line;
what a key means stands here, and a key without meaning is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ValidationError

import run_study
import search
from constraints import LIMITS
from search.config.sections import (
    DEFAULT_LIMITS,
    AugmentationSection,
    DataSection,
    StudySection,
    TrainingSection,
)
from search.domains import Choice
from space import BlockSpace, Fill, SearchSpace, TransitionSpace

PAGE = Path(__file__).parent / "reference.md"

# The tables of a study file, with what each key means.
SECTIONS: dict[str, tuple[type[BaseModel], dict[str, str]]] = {
    "study": (
        StudySection,
        {
            "name": "Names the study in its database, and its files.",
            "objectives": "What is optimized: accuracy first, the others are made small; pflop is "
            "what a trial costs until it reaches the target.",
            "metric": "What accuracy means: of all images, or the mean over classes.",
            "target": "Validation accuracy that ends the search; a trial alone where pflop is an "
            "objective.",
            "seed": "Of the sampler and of the weights.",
            "sampler": "tpe+gp (the two in turn), tpe, gp, nsga2, cmaes, random, qmc or grid: "
            "Optuna's, within which proposals are checked.",
            "pruner": "Ends trials that lag behind; none for several objectives.",
            "trials": "Budget: trained trials over all workers and resumes.",
            "hours": "Budget: hours with at least one worker at work.",
            "repeats": "Trainings that one architecture may get, with other seeds.",
            "proposals": "Rejections in a row after which the search is called infeasible.",
            "failures": "Failed trials in a row that end a worker.",
            "minutes": "How long one trial may take.",
            "finalists": "How many of the best trials are trained again with fresh seeds, "
            "until one is the best with 95 % probability; 1: none.",
            "finalist_trainings": "How often the finalists may be trained, all together; "
            "four times each, where it is not given.",
            "track": "Tools that are told of each trial when it has ended: tensorboard, mlflow, "
            "wandb; each is an extra.",
            "storage": "The database's URL; no password in it. Where nothing names one, it is "
            "SQLite beside the study file, or in studies/ there.",
        },
    ),
    "data": (
        DataSection,
        {
            "kind": "cifar10, torchvision, imagefolder, npz, or scikit-learn's digits.",
            "name": "Which of torchvision's data sets: CIFAR100, FashionMNIST, SVHN, …",
            "root": "Where the images lie, or are downloaded to; the file, for npz.",
            "channels": "1 for gray, 3 for color; else 3, but what npz and torchvision have.",
            "test": "Share of the training images that is the test set where there is none.",
            "validation": "Share of the training images held out, where none come to validate on.",
            "image_size": "Side that all images are resized to.",
            "seed": "Of the hold-out.",
        },
    ),
    "space": (
        SearchSpace,
        {
            "head": "Width of a depthwise separable unit that closes C4; 0 for none.",
            "activation": "After each convolution.",
            "dropout": "After the activation of each unit.",
            "classifier": "A linear layer or a 1x1 convolution, after global average pooling.",
        },
    ),
    "space.block": (
        BlockSpace,
        {
            "depth": "Units of the block; with 0 it is its transition alone.",
            "width": "Channels.",
            "operator": "Dense, depthwise separable, or an inverted bottleneck.",
            "kernel": "Odd.",
            "dilation": "Pixels between the taps of a kernel.",
            "residual": "Adds a unit's input to its output where the shapes agree.",
            "expansion": "Width of an inverted bottleneck over the block's.",
            "squeeze_excite": "Reduction of the channel gate; 0 for none.",
        },
    ),
    "space.block.transition": (
        TransitionSpace,
        {
            "halvings": "3x3 convolutions of stride 2 in a row; 0 for a dilated one instead. Where "
            "nothing is said, the transitions together have as many as `limits.downsampling` asks.",
            "operator": "Kind of these convolutions.",
            "dilation": "Of these convolutions; doubled for one that does not halve, and once more "
            "for each such one before it.",
            "bottleneck": "Halves the channels before it by a 1x1 convolution.",
        },
    ),
    "space.fill": (
        Fill,
        {
            "limit": "The limit that widths are scaled up to.",
            "from": "The least share of it that a candidate then has.",
        },
    ),
    "augmentation": (
        AugmentationSection,
        {
            "flip_probability": "Of HorizontalFlip.",
            "alternate_flips": "HorizontalFlip in every second epoch of an image, not by chance.",
            "shift": "Of ShiftScaleRotate: share of the image, to each side.",
            "scale": "Of ShiftScaleRotate: share, up and down.",
            "rotate": "Of ShiftScaleRotate: degrees, to each side.",
            "affine_probability": "Of ShiftScaleRotate.",
            "hole": "Of CoarseDropout: side of the one hole, in pixels.",
            "hole_probability": "Of CoarseDropout.",
            "strength": "Multiplies shift, scale, rotate and hole_probability.",
            "epochs": "Augmented epochs, made once and shared by all trials.",
            "seed": "Of what is drawn.",
            "extra": "More transforms of albumentations, each by its name and arguments.",
        },
    ),
    "training": (
        TrainingSection,
        {
            "epochs": "Of one trial.",
            "batch_size": "Images per step.",
            "optimizer": "Muon takes the dense convolution weights and leaves the rest to SGD.",
            "learning_rate": "Of SGD, at its highest.",
            "matrix_learning_rate": "Of Muon, at its highest.",
            "momentum": "Of SGD.",
            "matrix_momentum": "Of Muon.",
            "weight_decay": "Of the weights that SGD takes; norms and biases have none.",
            "label_smoothing": "Of the cross-entropy.",
            "schedule": "Of the learning rates.",
            "warmup": "Share of all steps in which the rates rise.",
            "average": "Horizon in epochs of the moving average of weights; 0 for none.",
            "whitening": "First convolution fixed to principal components of image patches.",
            "identity": "Dense convolutions larger than 1 x 1 begin as the identity.",
            "small_epochs": "Share of the epochs that train on smaller images, the first ones.",
            "small_side": "Side of those images, as a share of the full one.",
            "small_crop": "Cuts them out of the full ones, each at a place of its own, instead of "
            "scaling those down.",
            "class_weights": "Weighs a class's loss by the inverse of its share of the images.",
            "precision": "Of the arithmetic in training; auto takes bfloat16 where it is fast.",
        },
    ),
}
NOTES = {
    "space": "`[space.block]` holds for C1 to C4; `[space.C1]` to `[space.C4]` overrule it key by "
    "key. A study's Optuna parameters are the entries that are no single value.",
    "space.fill": "Optional. Scales all widths together until a candidate is close below a limit.",
    "training": "Each entry but `precision` is one value, a list of choices or a range.",
}

# Wrong for every entry, so that the refusal says what is right.
_NO_TEXT, _TOO_LOW, _TOO_HIGH = "?", -(10**9), 10**9


def page() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Made from the code by `python -m docs.make_reference`; edit that, not this.",
        "- [Study file](#study-file)\n- [Limits](#limits)\n- [Command line](#command-line)\n"
        "- [Python](#python)",
        "## Study file",
        "TOML. An entry marked *searched* may be one value (then it is fixed), a list of values, "
        "or, for numbers, a range: `{ low = 8, high = 32, step = 8 }` for whole numbers, "
        "`{ low = 0.1, high = 0.4, log = true }` for others. Both ends are included. Unknown keys "
        "are errors.",
        *(part for name in SECTIONS for part in _section(name)),
        "## Limits",
        *_limits(),
        "## Command line",
        *_command_line(),
        "## Python",
        *_python(),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str) -> Iterator[str]:
    model, meanings = SECTIONS[name]
    yield f"### `[{name}]`"
    if name in NOTES:
        yield NOTES[name]
    fields = {field.alias or key: key for key, field in model.model_fields.items()}
    rows = {alias: key for alias, key in fields.items() if not _is_table(model, key)}
    if rows.keys() != meanings.keys():
        raise KeyError(
            f"[{name}]: {sorted(rows.keys() ^ meanings.keys())} needs a meaning, or none"
        )
    yield _table(
        ("key", "value", "default", "meaning"),
        (
            (f"`{alias}`", _allowed(model, key), _default(model, key), meanings[alias])
            for alias, key in rows.items()
        ),
    )


def _is_table(model: type[BaseModel], key: str) -> bool:
    """Whether a field has a section of its own."""
    return any(table.__name__ in str(model.model_fields[key]) for table in _TABLES)


_TABLES = (BlockSpace, TransitionSpace, Fill)


def _default(model: type[BaseModel], key: str) -> str:
    field = model.model_fields[key]
    if field.is_required():
        return "needed"
    value = field.default
    return "" if value is None else f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _allowed(model: type[BaseModel], key: str) -> str:
    if Choice in getattr(model.model_fields[key].annotation, "__args__", ()):
        return f"{_searched(model, key)}; *searched*"
    schema = model.model_json_schema()["properties"][model.model_fields[key].alias or key]
    return _in_words(schema)


def _searched(model: type[BaseModel], key: str) -> str:
    """What one value of a searched entry may be, in the words of its refusals."""
    kind = _refusal(model, key, _NO_TEXT)
    if kind.startswith("one of "):
        return _listed(kind.removeprefix("one of ").split(", "))
    low, high = (_refusal(model, key, edge) for edge in (_TOO_LOW, _TOO_HIGH))
    return f"{kind} {_bounds(low)}" if low == high and low.startswith("lie in") else kind


def _refusal(model: type[BaseModel], key: str, value: object) -> str:
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, must ")
        return message.rsplit(", but got", 1)[0].removeprefix("be ")
    raise ValueError(f"{model.__name__}.{key} takes {value!r}, so nothing says its bounds")


def _bounds(words: str) -> str:
    low, high = re.findall(r"[\[ ]([-+.e\d]+)[,\]]", words)
    return f"{float(low):,.10g} to {float(high):,.10g}"


KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def _in_words(schema: dict[str, Any]) -> str:
    """What a JSON schema allows."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    (only,) = options
    if "$ref" in only:
        return "tables"
    if "enum" in only or "const" in only:
        return _listed(only.get("enum") or [only["const"]])
    if only["type"] == "array":
        return f"list of {_in_words(only['items'])}"
    kind = KINDS.get(only["type"], "text")
    edges = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {only[edge]:,}" for edge, sign in edges.items() if edge in only]
    return f"{kind} {', '.join(bounds)}".strip()


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _limits() -> Iterator[str]:
    yield (
        "`[limits]` of the study file: whole numbers. The rules of the assignment hold where a "
        'study file says nothing; the others hold where they are given. `"off"` turns a rule '
        "off, and so does 0, but for `downsampling = 0`, which asks that nothing downsamples."
    )
    yield _table(
        ("key", "rule for N", "default", "what is compared"),
        (
            (
                f"`{key}`",
                f"{limit.words} {limit.comparison} N",
                f"{DEFAULT_LIMITS[key]:,}" if key in DEFAULT_LIMITS else "",
                " ".join((limit.__doc__ or "").split()).split(": see")[0],
            )
            for key, limit in LIMITS.items()
        ),
    )


def _command_line() -> Iterator[str]:
    group: Any = typer.main.get_command(run_study.app)
    yield (
        "`python run_study.py COMMAND`, or `c1c4-search COMMAND` where the package is installed. "
        "`--debug` before the command shows tracebacks."
    )
    for name, command in group.commands.items():
        yield f"### `{name}`"
        yield f"{command.help}"
        yield _table(
            ("argument", "default", "meaning"),
            ((_spelled(p), _preset(p), _meaning(p)) for p in command.params if p.name != "help"),
        )
    yield (
        "Exit codes: 0 done (`launch`: target met; `check`, `verify`: all rules hold), 1 a rule is "
        "broken or the budget ended short of the target, 2 bad input, 3 the machine (data, device, "
        "storage, disk), 128 + n for signal n."
    )


def _spelled(parameter: Any) -> str:
    if not parameter.opts[0].startswith("-"):
        return f"`{parameter.metavar}`"
    names = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    return f"`{names} {parameter.metavar}`" if parameter.metavar else f"`{names}`"


def _preset(parameter: Any) -> str:
    value = parameter.default
    return "needed" if parameter.required else "" if value in (None, False) else f"`{value}`"


def _meaning(parameter: Any) -> str:
    environment = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    return f"{parameter.help}{environment}"


def _python() -> Iterator[str]:
    yield "`from search import …` gives what follows; each has a docstring."
    rows = []
    for name in search.__all__:
        words = (getattr(search, name).__doc__ or "").split("\n\n")[0]
        rows.append((f"`{name}`", " ".join(words.split())))
    yield _table(("name", "what it is"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [tuple(head), *map(tuple, rows)]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
