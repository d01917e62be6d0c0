"""Domains of one choice, and the entries of a study file that may be one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

Scalar = bool | int | float | str


class Frozen(BaseModel):
    """Part of a space: a key that it does not know is refused, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(Frozen):
    """One of a list of values."""

    values: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len({(type(value), value) for value in self.values}) != len(self.values):
            raise ValueError(f"choices must be distinct, but got {list(self.values)}")
        return self

    @model_serializer
    def _as_list(self) -> list[Scalar]:
        return list(self.values)

    def sample(self, rng: random.Random) -> Scalar:
        return self.values[int(rng.random() * self.size)]

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def middle(self) -> Scalar:
        """What stands for the domain where nothing is searched: of a list, the first value."""
        return self.values[0]

    def __contains__(self, value: object) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)


class IntRange(Frozen):
    """Integers from `low` to `high`, both included, in steps of `step`."""

    low: Annotated[int, Field(strict=True)]
    high: Annotated[int, Field(strict=True)]
    step: Annotated[int, Field(ge=1, strict=True)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low}, high={self.high}")
        if (self.high - self.low) % self.step:
            raise ValueError(
                f"step must divide high - low, but got low={self.low}, high={self.high}, "
                f"step={self.step}"
            )
        return self

    def sample(self, rng: random.Random) -> int:
        return self.low + self.step * int(rng.random() * self.size)

    @property
    def size(self) -> int:
        """How many members there are."""
        return (self.high - self.low) // self.step + 1

    @property
    def middle(self) -> int:
        """Likewise, half way between the ends."""
        return self.nearest((self.low + self.high) / 2)

    def nearest(self, value: float) -> int:
        """The member closest to `value`."""
        steps = round((value - self.low) / self.step)
        return min(max(self.low + self.step * steps, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int)
            and self.low <= value <= self.high
            and not ((value - self.low) % self.step)
        )


class FloatRange(Frozen):
    """Real numbers from `low` to `high`; with `log`, uniform in the logarithm."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must start above 0, but got low={self.low}")
        return self

    def sample(self, rng: random.Random) -> float:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(math.exp(low + rng.random() * (high - low)), self.low), self.high)
        return self.low + rng.random() * (self.high - self.low)

    @property
    def size(self) -> float:
        """One where the ends are the same, else infinite."""
        return 1 if self.low == self.high else math.inf

    @property
    def middle(self) -> float:
        """Likewise; with `log`, the geometric mean of the ends."""
        if self.log:
            return math.sqrt(self.low * self.high)
        return (self.low + self.high) / 2

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


Domain = Choice | IntRange | FloatRange
Setting = Scalar | Domain


def setting(kind: type, *allowed: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """The pydantic annotation of a study-file entry: one value of `kind`, a list of them
    to choose from, or (numbers) a range `{low, high}`.

    One value is fixed and no parameter of the study.  Strings must be among `allowed`,
    numbers within `low` and `high`.
    """

    def one(value: object) -> Scalar:
        if kind is str and isinstance(value, str):
            if value not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, but got {value!r}")
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            number: int | float = value
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        else:
            raise ValueError(f"must be {_KIND_NAMES[kind]}, but got {value!r}")
        if not low <= number <= high or math.isinf(number):
            raise ValueError(f"must lie in [{low:g}, {high:g}], but got {number!r}")
        return number

    def parse(value: object) -> Setting:
        if isinstance(value, Choice):
            value = value.values
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("a list of choices must not be empty")
            return Choice(values=tuple(one(member) for member in value))
        if isinstance(value, IntRange | FloatRange):
            value = value.model_dump()
        if isinstance(value, Mapping):
            if kind not in (int, float):
                raise ValueError(f"must be {_KIND_NAMES[kind]} or a list, but got a range")
            bounds = {**value, **{k: one(value[k]) for k in ("low", "high") if k in value}}
            return IntRange(**bounds) if kind is int else FloatRange(**bounds)
        return one(value)

    return BeforeValidator(parse)


_KIND_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}
