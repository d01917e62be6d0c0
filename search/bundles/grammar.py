"""The grammar of a plain network in Python: what is allowed; what it does not name is refused."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

_LAYERS = frozenset(
    {
        *("Module", "Sequential", "Conv2d", "BatchNorm2d", "Dropout", "Linear", "Flatten"),
        *("AvgPool2d", "AdaptiveAvgPool2d", "ReLU", "ReLU6", "GELU", "SiLU", "Hardswish"),
    }
)
_FUNCTIONS = frozenset({"relu", "sigmoid"})
_IMPORTS = {None: {"torch"}, "__future__": {"annotations"}, "torch": {"Tensor", "nn"}}
# Names that mean something here, so nothing in the file may be called like them.
_RESERVED = frozenset({"torch", "nn", "self", "super", "range", "int", "float", "Tensor"})
_MOST_TIMES = 1_000  # equal layers in a row
_MOST_LAYERS = 10_000  # in all
_OWN = frozenset(dir(nn.Sequential()))  # torch's attributes of a module: `compile`, `forward`, …


class NotPlainError(ValueError):
    """Something that no network needs; names line and reason."""


def require_network(tree: ast.Module) -> None:
    """Accepts a file of plain layers and nothing else.

    Raises:
        NotPlainError: it has something else.
    """
    names = _Names.of(tree)
    for statement in tree.body:
        _top_level(statement, names)
    made = _Made({node.name: node for node in tree.body if isinstance(node, ast.ClassDef)})
    for name in made.classes:
        made.by_class(name)


@dataclass(frozen=True)
class _Made:
    """How many layers the classes of a file make; what one makes may stand in another's loop."""

    classes: Mapping[str, ast.ClassDef]
    counts: dict[str, int] = field(default_factory=dict)

    def by_class(self, name: str) -> int:
        node = self.classes[name]
        if name not in self.counts:
            self.counts[name] = _MOST_LAYERS  # where it makes itself
            self.counts[name] = sum(map(self._by, node.body))
        if self.counts[name] > _MOST_LAYERS:
            raise _refuse(node, f"{name} makes more than {_MOST_LAYERS:,} layers")
        return self.counts[name]

    def _by(self, node: ast.AST) -> int:
        match node:
            case ast.GeneratorExp(elt=element, generators=[loop]):
                return _times(loop.iter) * self._by(element)
            case ast.Call(func=ast.Name(id=name)) if name in self.classes:
                return 1 + self.by_class(name) + self._within(node)
            case ast.Call():
                return 1 + self._within(node)
        return self._within(node)

    def _within(self, node: ast.AST) -> int:
        return sum(map(self._by, ast.iter_child_nodes(node)))


@dataclass(frozen=True)
class _Names:
    """The classes and the constants of a file."""

    classes: frozenset[str]
    constants: frozenset[str]

    @classmethod
    def of(cls, tree: ast.Module) -> _Names:
        return cls(
            frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef)),
            frozenset(_assigned(tree.body)),
        )


def _assigned(body: Iterable[ast.stmt]) -> Iterable[str]:
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name


def _refuse(node: ast.stmt | ast.expr | ast.arg, reason: str = "") -> NotPlainError:
    reason = reason or f"{type(node).__name__} is nothing that a plain network needs here"
    return NotPlainError(f"line {node.lineno}: {reason}")


def _top_level(node: ast.stmt, names: _Names) -> None:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            pass
        case ast.Import() | ast.ImportFrom():
            _imports(node)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            _require_free(node, name, names.classes)
            _literal(value)
        case ast.ClassDef():
            _class(node, names)
        case _:
            raise _refuse(node)


def _imports(node: ast.Import | ast.ImportFrom) -> None:
    module = node.module if isinstance(node, ast.ImportFrom) else None
    relative = isinstance(node, ast.ImportFrom) and node.level
    for alias in node.names:
        if relative or alias.asname or alias.name not in _IMPORTS.get(module, ()):
            raise _refuse(node, f"{ast.unparse(node)!r} is not of torch alone")


def _literal(node: ast.expr) -> None:
    match node:
        case ast.Tuple(elts=members):
            for member in members:
                _literal(member)
        case ast.Constant():
            pass
        case _:
            raise _refuse(node)


def _require_free(node: ast.stmt | ast.arg, name: str, taken: Iterable[str] = ()) -> None:
    if name in _RESERVED or name in taken or name.startswith("__"):
        raise _refuse(node, f"gives {name} another meaning")


def _class(node: ast.ClassDef, names: _Names) -> None:
    _require_free(node, node.name)
    if node.decorator_list or node.keywords or len(node.bases) != 1:
        raise _refuse(node, f"class {node.name} has decorators, keywords or several bases")
    match node.bases[0]:
        case ast.Attribute(value=ast.Name(id="nn"), attr="Module" | "Sequential"):
            pass
        case base:
            raise _refuse(base, f"class {node.name} is no nn.Module and no nn.Sequential")
    fields = frozenset(_fields(node))
    for statement in node.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.FunctionDef(name="__init__" | "forward"):
                _Function(names, fields, statement).judge()
            case ast.FunctionDef(name=name):
                raise _refuse(statement, f"defines {name}")
            case _:
                raise _refuse(statement)


def _fields(node: ast.ClassDef) -> Iterable[str]:
    """The attributes that `__init__` makes."""
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            for statement in function.body:
                match statement:
                    case ast.Assign(
                        targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]
                    ) if name not in _OWN and not name.startswith("_"):
                        yield name


@dataclass(frozen=True)
class _Function:
    """`__init__` or `forward` of a class whose `__init__` makes `fields`."""

    names: _Names
    fields: frozenset[str]
    node: ast.FunctionDef

    @property
    def _arguments(self) -> list[ast.arg]:
        arguments = self.node.args
        return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]

    @cached_property
    def _known(self) -> frozenset[str]:
        """What may stand as a value: no class, nothing of Python's own."""
        own = (argument.arg for argument in self._arguments[1:])
        return self.names.constants.union(own, _assigned(self.node.body))

    @property
    def _makes(self) -> bool:
        """Whether it is `__init__`, which makes layers; `forward` calls them."""
        return self.node.name == "__init__"

    def judge(self) -> None:
        self._signature()
        for statement in self.node.body:
            self._statement(statement)

    def _signature(self) -> None:
        arguments = self.node.args
        if self.node.decorator_list or arguments.vararg or arguments.kwarg:
            raise _refuse(self.node, f"{self.node.name} has decorators, *args or **kwargs")
        if [argument.arg for argument in self._arguments[:1]] != ["self"]:
            raise _refuse(self.node, f"{self.node.name} must begin with self")
        if len(arguments.defaults) >= len([*arguments.posonlyargs, *arguments.args]):
            raise _refuse(self.node, f"{self.node.name} has a default for self")
        for argument in self._arguments[1:]:
            _require_free(argument, argument.arg, self.names.classes)
        for default in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
            _literal(default)
        for annotation in (self.node.returns, *(each.annotation for each in self._arguments)):
            _annotation(annotation)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Call())) as call):
                self._expression(call)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if not self._makes:
                _require_free(node, name, self.names.classes)
                self._expression(value)
            case ast.Assign(targets=[ast.Attribute() as target], value=value):
                if not self._makes:
                    raise _refuse(node, f"forward changes {ast.unparse(target)}")
                self._field(target)
                self._expression(value)
            case ast.Return(value=ast.expr() as value):
                self._expression(value)
            case _:
                raise _refuse(node)

    def _field(self, node: ast.Attribute) -> None:
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self.fields:
                pass
            case _:
                raise _refuse(node, f"uses {ast.unparse(node)}")

    def _expression(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                pass
            case ast.Name(id=name) if name in self._known:
                pass
            case ast.Name(id=name):
                raise _refuse(node, f"uses {name}")
            case ast.Tuple(elts=members):
                for member in members:
                    self._expression(member)
            case ast.BinOp(op=ast.Add() | ast.Mult() | ast.FloorDiv(), left=left, right=right):
                self._expression(left)
                self._expression(right)
            case ast.Call():
                self._call(node)
            case _:
                raise _refuse(node)

    def _call(self, node: ast.Call) -> None:
        if not self._callable(node.func):
            raise _refuse(node, f"calls {ast.unparse(node.func)}, which is no layer")
        for argument in node.args:
            self._argument(argument)
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _refuse(node)
            self._expression(keyword.value)

    def _callable(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return self._makes and name in self.names.classes
            case ast.Attribute(value=ast.Name(id="nn"), attr=name):
                return self._makes and name in _LAYERS
            case ast.Attribute(value=ast.Name(id="torch"), attr=name):
                return name in _FUNCTIONS
            case ast.Attribute(value=ast.Name(id="x"), attr="mean"):
                return not self._makes
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return name in self.fields
            case ast.Attribute(
                value=ast.Call(func=ast.Name(id="super"), args=[], keywords=[]), attr="__init__"
            ):
                return self._makes
        return False

    def _argument(self, node: ast.expr) -> None:
        """A value, or several: `*(Conv(8, 8) for _ in range(3))`, `*Conv(8, 8)`."""
        match node:
            case ast.Starred(value=ast.GeneratorExp(elt=element, generators=[loop])):
                _repetition(loop)
                self._expression(element)
            case ast.Starred(value=value):
                self._expression(value)
            case _:
                self._expression(node)


def _repetition(node: ast.comprehension) -> None:
    match node:
        case ast.comprehension(target=ast.Name(id="_"), iter=times, ifs=[], is_async=0):
            if not 0 <= _times(times) <= _MOST_TIMES:
                raise _refuse(times, f"repeats more than {_MOST_TIMES:,} times")
        case _:
            raise _refuse(node.target)


def _times(node: ast.expr) -> int:
    """How often a loop runs over `node`; -1 where that is not a plain number of times."""
    match node:
        case ast.Call(func=ast.Name("range"), args=[ast.Constant(int(times))], keywords=[]):
            return times
    return -1


def _annotation(node: ast.expr | None) -> None:
    match node:
        case None | ast.Constant(value=None) | ast.Name(id="int" | "float" | "Tensor"):
            pass
        case ast.Attribute(value=ast.Name(id="nn"), attr="Module"):
            pass
        case _:
            raise _refuse(node, f"the annotation {ast.unparse(node)} means nothing here")
