"""What a name of a Python file is, by its text alone: a function and its parameters, or something else.

A name that only a run would show (of `import *`, of `globals()`) is not known here; nothing is said of it.
"""

import ast
from collections.abc import Iterator

from engine.python_paths import added_folders
from engine.python_sources import Source, is_own, levels, parsed

_DEEPEST = 8  # names that stand for names
# Where one of these stands in a file, it may make names that cannot be seen.
_MAKE_NAMES = {"globals", "vars", "exec", "eval", "setattr", "__getattr__", "locals"}

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def functions(tree: ast.Module) -> list[str]:
    """The names of the functions at a file's top level."""
    found = [node.name for node in _statements(tree.body) if isinstance(node, ast.FunctionDef)]
    return sorted(found)


def is_certainly_absent(tree: ast.Module, name: str) -> bool:
    """True if no statement of the file can make the name."""
    if _binding(tree, name) is not None:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return False
        if isinstance(node, ast.Name) and (node.id in _MAKE_NAMES or node.id == name):
            return False
        if isinstance(node, ast.FunctionDef) and node.name in _MAKE_NAMES:
            return False
        if isinstance(node, ast.Global) and name in node.names:
            return False
    return True


def function_of(source: Source, tree: ast.Module, name: str, where: str, depth: int = 0) -> Function | None:
    """What is called when the name is: its own `def` or lambda, that of a name that it stands for or is
    imported from, `__init__` of a class, `__call__` of an object made of one. None where that is not to be
    seen."""
    binding = _binding(tree, name)
    if binding is None or depth > _DEEPEST:
        return None
    if isinstance(binding, ast.ImportFrom):
        return _imported(source, tree, binding, name, where, depth)
    if isinstance(binding, ast.FunctionDef | ast.AsyncFunctionDef):
        return binding
    if isinstance(binding, ast.ClassDef):
        return _method(binding, "__init__")
    value = binding.value if isinstance(binding, ast.Assign | ast.AnnAssign) else None
    if isinstance(value, ast.Lambda):
        return value
    if isinstance(value, ast.Name) and value.id != name:
        return function_of(source, tree, value.id, where, depth + 1)
    if isinstance(value, ast.Call):
        return _made_by(source, tree, value, where, depth)
    return None


def has_parameter(function: Function, name: str) -> bool:
    """True if a function has a parameter of the name."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return any(one.arg == name for one in every)


def _imported(
    source: Source, tree: ast.Module, statement: ast.ImportFrom, name: str, where: str, depth: int
) -> Function | None:
    """The function that `from a import b as name` brings, where a is a file of the user's."""
    alias = next(one for one in statement.names if (one.asname or one.name) == name)
    if statement.level:
        parts = source.package.split(".") if source.package else []
        kept = parts[: len(parts) - statement.level + 1]
        place = ".".join([*kept, *([statement.module] if statement.module else [])])
    else:
        place = statement.module or ""
    before, behind = added_folders(tree, source.path)
    found = levels(place, [*behind, str(source.path.parent)], before) if place else []
    if not found or found[-1].name != place or not is_own(found[-1].path):
        return None
    return function_of(found[-1], parsed(found[-1], where), alias.name, where, depth + 1)


def _made_by(source: Source, tree: ast.Module, call: ast.Call, where: str, depth: int) -> Function | None:
    """Of `Scorer()` the class's `__call__`; of `partial(f, …)` the function f."""
    called = ast.unparse(call.func)
    first = call.args[0] if call.args else None
    if called in ("partial", "functools.partial") and isinstance(first, ast.Name):
        return function_of(source, tree, first.id, where, depth + 1)
    kind = _binding(tree, called)
    return _method(kind, "__call__") if isinstance(kind, ast.ClassDef) else None


def _method(kind: ast.ClassDef, name: str) -> Function | None:
    for node in kind.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    return None


def _binding(tree: ast.Module, name: str) -> ast.stmt | None:
    """The last statement at a file's top level that makes the name."""
    last: ast.stmt | None = None
    for statement in _statements(tree.body):
        if name in _names_made(statement):
            last = statement
    return last


def _names_made(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id} if statement.value is not None else set()
    return set()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body in order, with those within `if`, `try`, `with` and loops, but not within
    functions and classes."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for part in ast.iter_child_nodes(statement):
            if isinstance(part, ast.stmt):
                yield from _statements([part])
            elif isinstance(part, ast.ExceptHandler | ast.match_case):
                yield from _statements(part.body)
