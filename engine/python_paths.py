"""What a Python file's text says of code that it reaches beside plain imports: the folders that it puts on
Python's path, and calls that load a file in a way that nobody can follow.

Nothing is run: a folder is known where it is written out or made of `__file__` by the usual means.
"""

import ast
import os
from collections.abc import Callable
from pathlib import Path

_DEEPEST = 40  # expressions within one another, and names that stand for them
_SAME = {"str", "os.fspath", "Path", "pathlib.Path", "os.path.abspath", "os.path.realpath"}
_JOINED = {"os.path.join", "Path", "pathlib.Path"}
_LOADERS = ("spec_from_file_location", "run_path", "run_module")


class _UnknownError(Exception):
    """An expression whose value is not to be seen."""


def added_folders(tree: ast.Module, file: Path) -> tuple[list[str], list[str]]:
    """The folders that a file puts before and behind those on Python's path, as far as they can be seen."""
    names: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement.value
    before: list[str] = []
    behind: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = ast.unparse(node.func)
        if called not in ("sys.path.insert", "sys.path.append"):
            continue
        try:
            folder = str(_value(node.args[-1], file, names, 0))
        except (_UnknownError, RecursionError, ValueError, IndexError):
            continue
        if called == "sys.path.insert":
            before.insert(0, folder)
        else:
            behind.append(folder)
    return before, behind


def _value(node: ast.expr, file: Path, names: dict[str, ast.expr], depth: int) -> Path:
    """The path that an expression gives. Raises _UnknownError where that is not to be seen."""

    def of(part: ast.expr) -> Path:
        return _value(part, file, names, depth + 1)

    if depth > _DEEPEST:
        raise _UnknownError
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return Path(node.value)
    if isinstance(node, ast.Name):
        if node.id == "__file__":
            return file.absolute()
        if node.id in names:
            return of(names[node.id])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return of(node.left) / of(node.right)
    match node:
        case ast.Attribute(value=inner, attr="parent"):
            return of(inner).parent
        case ast.Subscript(
            value=ast.Attribute(value=inner, attr="parents"), slice=ast.Constant(value=int(ups))
        ):
            return of(inner).parents[ups]
    if isinstance(node, ast.Call):
        return _called(node, of)
    raise _UnknownError


def _called(node: ast.Call, of: Callable[[ast.expr], Path]) -> Path:
    called = ast.unparse(node.func)
    if called in ("os.getcwd", "Path.cwd", "pathlib.Path.cwd"):
        return Path.cwd()
    if called == "os.path.dirname" and len(node.args) == 1:
        return of(node.args[0]).parent
    if called in _SAME and len(node.args) == 1:
        return Path(os.path.abspath(of(node.args[0]))) if "abs" in called else of(node.args[0])
    if called in _JOINED and node.args:
        return Path(*[of(part) for part in node.args])
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("resolve", "absolute", "as_posix"):
        path = of(node.func.value)
        return path.resolve() if node.func.attr == "resolve" else path
    raise _UnknownError


def unseen_loads(tree: ast.Module) -> list[str]:
    """The calls of a file that load code which no import names, in words and by line."""
    found: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if last in _LOADERS:
            found.append(f"{last} in line {node.lineno}")
        elif called in ("exec", "eval") and node.args and _reads_file(node.args[0]):
            found.append(f"{called} of a file in line {node.lineno}")
    return found


def _reads_file(node: ast.expr) -> bool:
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            last = ast.unparse(part.func).rpartition(".")[2]
            if last in ("open", "read_text", "read_bytes"):
                return True
    return False
