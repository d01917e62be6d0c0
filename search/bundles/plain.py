"""A bundle's `model.py`, judged before it is run.

Somebody else may have written the file.  What is run is what was judged: `judged` decodes the
bytes once, parses the text once, and compiles that tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType

from search.bundles.grammar import NotPlainError, require_network

# The line that tells Python a file's encoding (PEP 263), where Python looks for it.
_COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_ODD = re.compile(r"[^\n\t\x20-\x7e\x80-\U0010ffff]|[\x80-\x9f\ufeff]")


@dataclass(frozen=True)
class Plain:
    """A file that was judged: its code, the constants at its top, and what it does beside them,
    which is the same text in files that differ in comments and constants alone."""

    code: CodeType
    constants: Mapping[str, object]
    operations: str


def judged(content: bytes) -> Plain:
    """A file of plain layers and nothing else.

    Raises:
        NotPlainError: it has something else; that may be harmless, but is not run.
    """
    tree = require_plain(decoded(content))
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    try:
        code = compile(tree, "model.py", "exec", dont_inherit=True)
        return Plain(code, constants, _operations(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotPlainError(f"no Python: {error}") from None


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8 that Python reads as that, and as nothing else.

    Raises:
        NotPlainError: it names another encoding, or holds control characters.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotPlainError(f"no UTF-8 at byte {error.start}") from None
    text = text.replace("\r\n", "\n")
    odd = _ODD.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise NotPlainError(f"line {line}: holds the character U+{ord(odd[0]):04X}")
    for number, line_text in enumerate(text.split("\n")[:2], 1):
        cookie = _COOKIE.match(line_text)
        if cookie and cookie[1].lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise NotPlainError(f"line {number}: is encoded as {cookie[1]}, not as utf-8")
    return text


def require_plain(source: str) -> ast.Module:
    """The tree of a file of plain layers and nothing else.

    Raises:
        NotPlainError: it has something else; that may be harmless, but is not run.
    """
    try:
        tree = ast.parse(source)
        require_network(tree)
    except NotPlainError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotPlainError(f"no Python: {error}") from None
    return tree


def _operations(tree: ast.Module) -> str:
    """Takes comments and constants out of the tree, which is compiled by now."""
    tree.body = [node for node in tree.body if not isinstance(node, ast.Assign)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[ast.get_docstring(node) is not None :]
    return ast.dump(tree)


__all__ = ["NotPlainError", "Plain", "decoded", "judged", "require_plain"]
