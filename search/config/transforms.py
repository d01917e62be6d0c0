"""A transform of albumentations by its name and arguments."""

from __future__ import annotations

import os
import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from search.config.refusals import refusal
from search.errors import first_line

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would call out to the network on import


class Transform(BaseModel):
    """`{ name = "ColorJitter", brightness = [0.8, 1.2], p = 0.5 }`: what albumentations' class of
    that name takes, `p` being its probability."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is called with."""
        return dict(self.model_extra or {})

    def build(self, **changes: Any) -> Any:
        """albumentations' transform, with some arguments changed.

        Raises:
            ValueError: there is none of that name, or it takes no such argument or value.
        """
        import albumentations  # a second, for those who use it

        kind = getattr(albumentations, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
            raise ValueError(f"albumentations has no transform {self.name}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # how it tells of unknown arguments
                return kind(**{**self.arguments, **changes})
        except (UserWarning, TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: {_reason(error)}") from None

    @model_validator(mode="after")
    def _can_be_built(self) -> Transform:
        self.build()
        return self


def _reason(error: Exception) -> str:
    """The argument that is wrong, and why; albumentations wraps pydantic's error."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return first_line(error)
    first = cause.errors()[0]
    given = "" if first["type"] == "missing" else f" (got {first['input']!r})"
    return f"{'.'.join(map(str, first['loc']))}: {refusal(first)}{given}"
