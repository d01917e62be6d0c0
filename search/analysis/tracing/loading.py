"""The module that TARGET names, imported and built."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search.analysis.traced import code_key
from search.analysis.tracing.errors import TraceError

LONGEST = 300  # characters of what an exception says
RELATIVE = "; name it from the folder above its package, as package.module:factory"


def load_factory(target: str) -> Callable[..., nn.Module]:
    """The callable that `file.py:factory` or `package.module:factory` names.

    This imports, and so runs, the user's code.

    Raises:
        TraceError: no such file, module or attribute, or importing it fails.
    """
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise TraceError(f"{target!r} must be file.py:factory or package.module:factory")
    if place.endswith(".ipynb"):
        raise TraceError(
            f"{place} is a notebook, and the network is taken from a file.py or a module; within "
            f"the notebook, search.check({name}()) checks it"
        )
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except TraceError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may fail in any way
        way = RELATIVE if "no known parent package" in str(error) else ""
        raise TraceError(f"importing {place} failed: {in_words(error)}{way}") from error
    factory = getattr(module, name, None)
    if factory is None:
        raise TraceError(f"{place} has no {name!r}")
    if not callable(factory):
        raise TraceError(f"{target} must be a callable that makes an nn.Module")
    made: Callable[..., nn.Module] = (
        (lambda: factory) if isinstance(factory, nn.Module) else factory
    )
    return made


@dataclass(frozen=True)
class ModuleSource:
    """A factory, where it came from (a file's absolute path or a dotted name, a colon, and its
    name), and the SHA-256 of the file that it stands in."""

    module: str
    sha256: str
    factory: Callable[..., nn.Module]

    @property
    def key(self) -> str:
        """What names the code, wherever it lies."""
        return code_key(self.module, self.sha256)


def read_source(target: str) -> ModuleSource:
    """What `target` names; this runs the user's code.

    Raises:
        TraceError: as `load_factory`.
    """
    factory = load_factory(target)
    place, _, name = target.rpartition(":")
    path = place if place.endswith(".py") else getattr(sys.modules[place], "__file__", None)
    if path is None:
        raise TraceError(f"{place} has no source file")
    file = Path(path).resolve()
    place = str(file) if place.endswith(".py") else place
    return ModuleSource(f"{place}:{name}", hashlib.sha256(file.read_bytes()).hexdigest(), factory)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise TraceError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look themselves up
    with _import_path(path.resolve().parent), no_command_line(path):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    with _import_path(Path.cwd()), no_command_line(name):
        return importlib.import_module(name)


@contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def no_command_line(place: Path | str) -> Iterator[None]:
    """The user's code may read its command line, and this one is not for it."""
    given, sys.argv = sys.argv, [str(place)]
    try:
        yield
    finally:
        sys.argv = given


def make(factory: Callable[..., nn.Module]) -> nn.Module:
    """The module, made on the meta device where its constructor allows, else as usual.

    Pretrained weights, which torchvision's factories may fetch, are declined: only shapes
    count.

    Raises:
        TraceError: the factory fails, or makes something else.
    """
    try:
        with torch.device("meta"):
            return built(factory)
    except TraceError:  # a constructor that reads values needs real ones
        return built(factory)


def built(factory: Callable[..., nn.Module]) -> nn.Module:
    """The module with its initial weights; otherwise as `make`."""
    declined = _declined(factory)
    _require_no_more(factory, declined)
    with warnings.catch_warnings(), no_command_line(sys.argv[0]):
        warnings.simplefilter("ignore")  # the user's, about pretrained weights and the like
        try:
            module = factory(**declined)
        except (Exception, SystemExit) as error:
            raise TraceError(f"the factory failed: {in_words(error)}") from error
    if not isinstance(module, nn.Module):
        raise TraceError(f"the factory must make an nn.Module, but made {type(module).__name__}")
    return module


def require_module(given: object) -> nn.Module:
    """`given`, if it is a module and neither its class nor anything else.

    Raises:
        TraceError: it is not.
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, type) and issubclass(given, nn.Module):
        raise TraceError(f"{given.__name__} is a class: check {given.__name__}()")
    raise TraceError(f"must be a network or an nn.Module, but got {type(given).__name__}")


def _declined(factory: Callable[..., nn.Module]) -> dict[str, None]:
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables have none
        return {}
    return dict.fromkeys({"weights", "weights_backbone"} & set(known))


def _require_no_more(factory: Callable[..., nn.Module], declined: dict[str, None]) -> None:
    try:
        parameters = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        parameters.bind(**declined)
    except TypeError as error:
        name = getattr(factory, "__name__", "the factory")
        raise TraceError(
            f"{name} is called without arguments, and is {error}; name a function that gives "
            f"them: def network(): return {name}(…)"
        ) from None


def in_words(error: BaseException) -> str:
    """Type, text and place of an exception of the user's code, in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    place = _place(error)
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """The last line of neither torch nor the checker, of the user's own files if there is one."""
    foreign = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")
    libraries = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    frames = [
        frame
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if not frame.filename.startswith(foreign) and "importlib" not in frame.filename
    ]
    own = (frame for frame in frames if not frame.filename.startswith(libraries))
    frame = next(own, frames[0] if frames else None)
    return f"{Path(frame.filename).name}, line {frame.lineno}" if frame else ""
