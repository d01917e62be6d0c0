"""What pydantic refuses of a study file, in the words of all other errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WHOLE, _NUMBER, _BOOLEAN = "must be a whole number", "must be a number", "must be true or false"
_WORDS = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "string_type": "must be text, in quotes",
    "path_type": "must be a path, in quotes",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def refusal(error: ErrorDetails) -> str:
    """What the value must be; what a validator of ours says stays as it is."""
    message = error["msg"].removeprefix("Value error, ")
    return _WORDS.get(error["type"]) or re.sub(r"^\w+ should ", "must ", message)
