"""Study files: TOML read, `--set` overrides applied, mistakes told in one line."""

from __future__ import annotations

import difflib
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from search.config.refusals import refusal
from search.config.secrecy import concealed
from search.config.sections import StudyConfig, StudySection
from search.errors import ConfigError, shortened
from search.networks.architecture import BLOCK_NAMES

DEFAULTS = StudyConfig(study=StudySection(name="defaults"))
"""What a study file means that names nothing: the assignment."""

_LARGEST = 2**20  # bytes of a study file: a thousand times those of any


def load(path: Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """The study file at `path` with `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names file, key, value and rule.
    """
    text = _text(path)
    try:
        raw = _toml(text, str(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}{_quoted(text, str(error))}") from None
    for override in overrides:
        _apply(raw, override)
    return parse(raw, str(path))


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{path}: is a directory, not a study file")
        if not stat.S_ISREG(status.st_mode):  # a pipe is waited for, a device may never end
            raise ConfigError(f"{path}: is no ordinary file")
        if status.st_size > _LARGEST:
            raise ConfigError(
                f"{path}: {status.st_size:,} bytes, but a study file has {_LARGEST:,} at most"
            )
        return path.read_text(encoding="utf-8-sig")  # some editors of Windows begin with a mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such study file; init writes a first one") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file in UTF-8; save it as one") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _toml(text: str, origin: str) -> dict[str, Any]:
    """What the TOML in `text` means; `origin` names it in errors.

    Raises:
        TOMLDecodeError: it is none.
        ConfigError: it is more than Python reads.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ConfigError(f"{origin}: its brackets are nested too deeply to be read") from None
    except ValueError:
        raise ConfigError(f"{origin}: has a number of too many digits to be read") from None


def _quoted(text: str, message: str) -> str:
    """The line of the file that a TOML error is about, since it names only the number.

    Not one with a URL: where it does not read, nobody knows which part is the password.
    """
    lines = text.rstrip().splitlines()
    number = re.search(r"at line (\d+)", message)
    index = int(number[1]) - 1 if number else len(lines) - 1
    line = lines[index].strip() if 0 <= index < len(lines) else ""
    secret = any(sign in line for sign in ("storage", "//", "@"))
    return f": {shortened(line, 100)}" if line and not secret else ""


def parse(raw: Mapping[str, Any], origin: str) -> StudyConfig:
    """The configuration in `raw`; `origin` names it in errors.

    Raises:
        ConfigError: one line that names key, value and rule.
    """
    for path, value in leaves(raw):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:  # as TOML bounds them
            key = ".".join(name for name in path if isinstance(name, str))
            raise ConfigError(f"{origin}: {key}: has too many digits to be read")
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error.errors()[0], raw)}") from None


def leaves(
    content: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that `content` holds, by the names and, in lists, numbers that lead to it."""
    match content:
        case Mapping():
            for name, value in content.items():
                yield from leaves(value, (*path, str(name)))
        case list() | tuple():
            for number, value in enumerate(content):
                yield from leaves(value, (*path, number))
        case _:
            yield path, content


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
        reason = refusal(error.errors()[0])
        raise ConfigError(f"study name {_shown(name)}: {reason}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"--set {concealed(override)}: must read section.key=value")
    try:
        value, *more = _toml(f"value = {text}", f"--set {key}").values()
    except tomllib.TOMLDecodeError:
        value, more = text, []  # a bare word is text: --set data.kind=digits
    if more:
        raise ConfigError(f"--set {key}: holds {len(more) + 1} keys; give each a --set of its own")
    *path, last = key.strip().split(".")
    table = raw
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {concealed(override)}: {part} is no table")
    if text.strip():
        _require_effect(raw, [*path, last], value)
        table[last] = value
    else:  # as if the file did not name it
        table.pop(last, None)


def _require_effect(raw: Mapping[str, Any], path: list[str], value: object) -> None:
    """Refuses to set for all blocks what each of them says itself, as in a study's database, and
    the transition of C4, which has none."""
    if path[:3] == ["space", "C4", "transition"]:
        raise ConfigError(f"--set {'.'.join(path)}: changes nothing, since no transition ends C4")
    if path[:2] != ["space", "block"]:
        return
    for leaf, _ in leaves(value, tuple(path[2:])):
        inner = [name for name in leaf if isinstance(name, str)]
        blocks = BLOCK_NAMES[:-1] if inner[:1] == ["transition"] else BLOCK_NAMES  # none ends C4
        if inner and all(_says(raw["space"].get(block), inner) for block in blocks):
            own = ", ".join(".".join(["space", block, *inner]) for block in blocks)
            raise ConfigError(
                f"--set {'.'.join(path)}: changes nothing, since each block says its own: {own}"
            )


def _says(table: object, path: list[str]) -> bool:
    for name in path:
        if not isinstance(table, Mapping) or name not in table:
            return False
        table = table[name]
    return True


def _explain(error: ErrorDetails, raw: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(_as_written(path, raw))
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_instead(path)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = refusal(error)
    given = error["input"]
    told = "but got " in message or repr(given) in message
    if told or isinstance(given, Mapping) or key == "study.storage":
        return f"{key}: {concealed(message)}"
    return f"{key}: {message} (got {_shown(given)})"


def _shown(value: object) -> str:
    return shortened(concealed(repr(value)), 100)


def _as_written(path: list[str], raw: Mapping[str, Any]) -> list[str]:
    """What stands in `[space.block]` is reported there, not in each block it was spread to."""
    if len(path) < 3 or path[0] != "space" or path[1] not in BLOCK_NAMES:
        return path
    own = raw["space"].get(path[1], {})
    return path if path[2] in own else ["space", "block", *path[2:]]


def _instead(path: list[str]) -> str:
    """What may have been meant: a key of that table, one of that name elsewhere, or any there."""
    *table, key = path
    known = _known_keys(table)
    spelt = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), spelt, n=1)
    elsewhere = [f"{part}.{key}" for part in _known_keys([]) if key in _known_keys([part])]
    if near:
        return f"; did you mean {spelt[near[0]]}?"
    if elsewhere and not table[1:]:
        return f"; did you mean {' or '.join(elsewhere)}?"
    return f"; there is {', '.join(known)}" if known else ""


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = StudyConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
