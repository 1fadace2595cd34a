"""The user's Python files, read and never run: where a module lies, what it imports, what its digests are.

To import a module, and even to ask Python's own `find_spec("a.b")` for one, runs code. A folder is named, and
a run is looked at, without that: files are found by asking the finders of the import system level by level,
and read as syntax trees.
"""

import ast
import functools
import importlib
import importlib.machinery
import importlib.metadata
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from engine.python_paths import added_folders
from schemas import extensions
from schemas.digest import sha256_file
from schemas.errors import UserError

_LARGEST = 16 << 20  # bytes of a source file that is read
_FOLDERS_OF_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """A Python file. `name` is its dotted name; `package`: where its relative imports begin, or empty."""

    name: str
    path: Path
    package: str = ""

    @property
    def is_package(self) -> bool:
        """True if it is the `__init__.py` of a package."""
        return self.path.name == "__init__.py"


def source_of_file(path: str) -> Source:
    """A file by its path. It is no part of a package, so it has no relative imports."""
    return Source(Path(path).stem, Path(path))


def levels(name: str, behind: Sequence[str] = (), before: Sequence[str] = ()) -> list[Source]:
    """The files that `import a.b.c` runs, of a, a.b and a.b.c in turn; those that have none are left out.

    The list ends where a level is not found. `before`: folders to look in for `a` before the finders are
    asked; `behind`: those for where no finder knows it."""
    found: list[Source] = []
    search: list[str] | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        whole = ".".join(parts[:depth])
        spec = _spec(whole, search) if depth > 1 else _spec_of_first(whole, behind, before)
        if spec is not None and spec.origin and spec.has_location:
            package = whole if spec.submodule_search_locations is not None else whole.rpartition(".")[0]
            found.append(Source(whole, Path(spec.origin), package))
        search = _folders_below(
            spec, [*before, *sys.path, *behind] if search is None else search, parts[depth - 1]
        )
        if not search:
            break
    return found


def _spec_of_first(
    name: str, behind: Sequence[str], before: Sequence[str]
) -> importlib.machinery.ModuleSpec | None:
    """The first level of a name; a folder without `__init__.py` is taken where nothing else has the name."""
    path_finder = importlib.machinery.PathFinder
    spec = path_finder.find_spec(name, list(before)) if before else None
    if spec is None or spec.loader is None:
        spec = _spec(name, None) or spec
    if spec is None and behind:
        spec = path_finder.find_spec(name, list(behind))
    return spec


def _spec(name: str, search: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """What the import system's finders say of a name, whose parent is not imported for that."""
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, search)
        except (KeyError, AttributeError, ImportError, OSError, ValueError):
            # A namespace within a namespace asks for its parent, which is not imported.
            continue
        if spec is not None:
            return spec
    return None


def _folders_below(
    spec: importlib.machinery.ModuleSpec | None, search: Sequence[str], last: str
) -> list[str]:
    """Where the next level is looked for; a folder without `__init__.py` is a package as well."""
    if spec is not None and spec.loader is not None:
        return list(spec.submodule_search_locations or ())
    folders = [Path(entry or ".") / last for entry in search]
    return [str(folder) for folder in folders if folder.is_dir()]


def is_own(path: Path) -> bool:
    """True for a source file of the user's: neither Python's, nor installed, nor prefmill's."""
    if path.suffix != ".py" or _FOLDERS_OF_INSTALLED & set(path.parts):
        return False
    resolved = path.resolve()
    if any(resolved.is_relative_to(folder) for folder in _foreign_folders()):
        return False
    # A package that hands over prompts and SQL is imported by prefmill itself.
    return all(resolved != folder / "__init__.py" for folder in extensions.folders())


@functools.cache
def _foreign_folders() -> tuple[Path, ...]:
    """Where files lie that are known by a version: of Python, of what is installed, of prefmill."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    ours = {_OURS / package for package in ("schemas", "engine", "trainer")}
    return (*sorted(Path(folder).resolve() for folder in folders), *sorted(ours))


def parsed(source: Source, where: str) -> ast.Module:
    """A file's syntax tree. Raises UserError, which begins with `where`, if it is no Python."""
    if any(folder.is_file() for folder in source.path.parents):
        raise UserError(
            f"{where}: {source.path} lies in an archive, and a module in a zip is not read: unpack it, and "
            "put the folder that it is then in on PYTHONPATH in place of the zip"
        )
    if not source.path.is_file() or source.path.stat().st_size > _LARGEST:
        raise UserError(f"{where}: {source.path} is no Python file of at most {_LARGEST >> 20} MB")
    try:
        return ast.parse(source.path.read_bytes(), filename=str(source.path))
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{where}: {source.path}{line} is no Python: {error.msg}; correct it") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: {source.path} cannot be read as Python: {error}; correct it") from None


def modules_of(source: Source, where: str) -> tuple[list[Source], set[str]]:
    """What a file imports, and what that imports: the user's own modules by name, and the first names of all
    others. Statements within functions count, and so do names given to `import_module` as they stand.

    Raises UserError, which begins with `where`, if one of them is no Python."""
    importlib.invalidate_caches()
    own: dict[str, Source] = {}
    others: set[str] = set()
    seen = {source.path.resolve()}
    waiting = [source]
    before: list[str] = []  # what the files put on Python's path
    behind: list[str] = []
    # A module of a package runs the `__init__.py` of those that it is in; an empty one says nothing.
    for parent in levels(source.package if not source.is_package else source.package.rpartition(".")[0]):
        if is_own(parent.path) and has_code(parsed(parent, where)) and parent.path.resolve() not in seen:
            seen.add(parent.path.resolve())
            own[parent.name] = parent
            waiting.append(parent)
    while waiting:
        current = waiting.pop()
        tree = parsed(current, where)
        first, last = added_folders(tree, current.path)
        before = [*first, *before]
        behind = [*behind, *last]
        for name in imported_names(tree, current.package):
            found = levels(name, [*behind, str(current.path.parent)], before)
            others.add(name.partition(".")[0])
            for module in found:
                if module.path.resolve() in seen or not is_own(module.path):
                    continue
                seen.add(module.path.resolve())
                own[module.name] = module
                waiting.append(module)
    own_names = {name.partition(".")[0] for name in own}
    return sorted(own.values(), key=lambda module: module.name), others - own_names


def has_code(tree: ast.Module) -> bool:
    """True if a file has more than a docstring."""
    return any(not isinstance(node, ast.Expr | ast.Pass) for node in tree.body)


def imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    """The dotted names that a file imports; of `from a import b` both a and a.b, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                for alias in node.names:
                    yield f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            first = node.args[0]
            is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
            if called in ("import_module", "__import__") and is_text:
                name = _absolute(str(ast.literal_eval(first)), package)
                if name:
                    yield name


def _absolute(name: str, package: str) -> str:
    """A name with dots in front as it is seen from a package; empty where it leads out of it."""
    rest = name.lstrip(".")
    ups = len(name) - len(rest)
    if not ups:
        return name
    parts = package.split(".") if package else []
    if ups > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - ups + 1], *([rest] if rest else [])])


def digests(modules: Sequence[Source]) -> dict[str, str]:
    """Name -> the sha256 of each file."""
    return {module.name: sha256_file(module.path) for module in modules}


def packages_of(names: Set[str]) -> set[str]:
    """The installed packages that modules of these first names come from; Python's own come from none."""
    asked = names - sys.stdlib_module_names - {"schemas", "engine", "trainer"}
    if not asked:
        return set()
    known = importlib.metadata.packages_distributions()
    return {package for name in asked for package in known.get(name, ())}
