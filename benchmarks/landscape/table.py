"""One table: a line of JSON that says what it is of, then one line for each training.

Lines are only ever appended, under a lock, so a table can be read while it grows.  A line
that a dying process left unfinished is not there for readers, and the next writer cuts it
off.  A table whose name ends in `.gz` is the same, compressed, and only read.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from search.domains import Scalar
from search.errors import ConfigError, MachineError

VERSION = 1
CHANCE = 0.1
Kind = Literal["random", "repeat", "guided"]
RecipeName = Literal["short", "whole"]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    """What a table is of.  `images` names the training images by their fingerprint,
    `settings` what `wide.toml` and the recipes say, by a hash."""

    landscape: int
    images: str
    settings: str


class Row(_Line):
    """One training.

    `kind`: a uniform legal network, one of those with another seed, or one that was named.
    `index` counts uniform ones from 0; None for those named.  `choices` are one value for each
    parameter of the study, widths filled.  `architecture` and `candidate` are the hashes of the
    network and of network, recipe and seed.  `receptive_field` is in pixels, of the smaller
    axis.  `accuracies` and `losses` are those of the judging images after each epoch;
    a training that diverged has those before.  `seconds` are of the clock, `processor_seconds`
    of this process.
    """

    kind: Kind
    index: int | None
    recipe: RecipeName
    seed: int
    choices: dict[str, Scalar]
    architecture: str
    candidate: str
    receptive_field: int | None
    parameters: int
    macs: int
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool
    seconds: float
    processor_seconds: float
    device: str
    versions: dict[str, str]

    @property
    def accuracy(self) -> float:
        """After the last epoch, in [0, 1]; that of chance where the training diverged."""
        return CHANCE if self.diverged else self.accuracies[-1]

    @property
    def collapsed(self) -> bool:
        """Whether the training learned nothing: it diverged, or the loss is no smaller than that
        of guessing, as where all that enters some layer died, or activations explode."""
        return self.diverged or self.losses[-1] >= -math.log(CHANCE)


@dataclass(frozen=True)
class Table:
    """A header and its rows in the order in which they were written."""

    header: Header
    rows: tuple[Row, ...]

    def first(self, recipe: RecipeName = "short") -> tuple[Row, ...]:
        """The trainings of that recipe with the first seed: one for each network."""
        return tuple(row for row in self.rows if row.recipe == recipe and row.seed == 0)

    def uniform(self) -> tuple[Row, ...]:
        """Of those the short trainings of networks that no search led to."""
        return tuple(row for row in self.first() if row.kind == "random")

    def repeated(self, recipe: RecipeName = "short") -> dict[str, tuple[Row, ...]]:
        """The trainings, all seeds, of networks with several; by architecture."""
        found: dict[str, tuple[Row, ...]] = {}
        for row in self.rows:
            if row.recipe == recipe:
                found[row.architecture] = (*found.get(row.architecture, ()), row)
        return {name: rows for name, rows in found.items() if len(rows) > 1}


def load(path: Path, *, networks: int = 20) -> Table:
    """The table at `path`.

    Raises:
        ConfigError: no table of this version, or one of fewer networks than asked for.
    """
    lines = _lines(path)
    if not lines:
        raise ConfigError(f"{path}: is empty; python -m benchmarks.landscape IMAGES fills it")
    header = _header(path, lines[0])
    rows = tuple(_row(path, number, line) for number, line in enumerate(lines[1:], 2))
    found = len({row.architecture for row in rows})
    if found < networks:
        raise ConfigError(
            f"{path}: has {found} networks, but {networks} are needed; "
            "python -m benchmarks.landscape IMAGES trains more"
        )
    return Table(header, rows)


def append(path: Path, line: Row | Header) -> None:
    """Adds `line` at the end of the table, unless it is a header and there is one.

    Raises:
        MachineError: the file cannot be written to.
    """
    try:
        with FileLock(path.with_name(f"{path.name}.lock")), path.open("ab+") as file:
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
            if isinstance(line, Row) or not whole:
                file.write(f"{line.model_dump_json()}\n".encode())
    except OSError as error:
        raise MachineError(f"{path}: {error.strerror}; name another file: --table") from None


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read as a landscape: {reason}") from None
    return content[: content.rfind(b"\n") + 1].splitlines()


def _header(path: Path, line: bytes) -> Header:
    try:
        content = json.loads(line)
        version = content["landscape"]
    except (ValueError, TypeError, LookupError):
        raise ConfigError(f"{path}: its first line is not that of a landscape") from None
    if version != VERSION:
        raise ConfigError(f"{path}: is of version {version!r}, but this program reads {VERSION}")
    try:
        return Header.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: line 1: {_first(error)}") from None


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        raise ConfigError(f"{path}: line {number}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
