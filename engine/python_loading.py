"""The user's Python files, run: exactly the bytes that a folder's facts name, and no other file of theirs.

- Their own modules are compiled from source whenever they are imported: a `.pyc` is believed by the source's
  size and time, which whoever writes a file can set.
- A module whose bytes are not those that were planned with, and one that was not seen before the run, is
  refused: the scores would be filed under a wrong name.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from engine.python_sources import Source, is_own
from schemas.digest import sha256_file
from schemas.errors import UserError

_loading = threading.RLock()


class _FromSource(importlib.machinery.SourceFileLoader):
    """Runs a file's source, if it is the one with this digest."""

    def __init__(self, name: str, path: str, sha256: str):
        super().__init__(name, path)
        self.sha256 = sha256

    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew. Raises UserError where the file changed."""
        source = Path(self.path).read_bytes()
        if hashlib.sha256(source).hexdigest() != self.sha256:
            raise UserError(f"{self.path} changed while the run was going; run the same command again")
        code = compile(source, self.path, "exec", dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


class _Finder:
    """Gives the modules that were planned with to the import system, where it finds the same files."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Path, str]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.known:
            return None
        file, sha256 = self.known[name]
        spec = _spec_of_others(name, path, target)
        if spec is None or not spec.origin or Path(spec.origin).resolve() != file.resolve():
            return None
        return importlib.util.spec_from_file_location(
            name,
            spec.origin,
            loader=_FromSource(name, spec.origin, sha256),
            submodule_search_locations=spec.submodule_search_locations,
        )


def _spec_of_others(
    name: str, path: Sequence[str] | None, target: ModuleType | None
) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is _FINDER:
            continue
        spec = finder.find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


_FINDER = _Finder()


def run_module(
    source: Source, by_path: bool, modules: Sequence[Source], sha256: Mapping[str, str]
) -> ModuleType:
    """Import a file with the user's own modules that it needs. `sha256`: of each by its name, and of the file
    itself by its own.

    What an earlier call ran of these is run again, since it may be of other bytes. Raises UserError where one
    of them changed."""
    with _loading:
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        importlib.invalidate_caches()
        _forget([*modules, source])
        for module in modules:
            _FINDER.known[module.name] = (module.path, sha256[module.name])
        if by_path:
            return _run_file(source, sha256[source.name])
        if source.path.suffix == ".py":
            _FINDER.known[source.name] = (source.path, sha256[source.name])
        return importlib.import_module(source.name)


def _forget(sources: Sequence[Source]) -> None:
    """Take back what was run before of these files; what others imported stays."""
    for source in sources:
        known = sys.modules.get(source.name)
        if not isinstance(getattr(known, "__loader__", None), _FromSource):
            continue
        del sys.modules[source.name]
        parent, _, last = source.name.rpartition(".")
        if getattr(sys.modules.get(parent), last, None) is known:
            delattr(sys.modules[parent], last)


def _run_file(source: Source, sha256: str) -> ModuleType:
    path = str(source.path)
    spec = importlib.util.spec_from_file_location(
        source.name, path, loader=_FromSource(source.name, path, sha256)
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up; a module that is there already keeps its name.
    sys.modules.setdefault(source.name, module)
    spec.loader.exec_module(module)
    return module


def strangers(before: Set[str], known: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """The user's own modules that came to be imported since `before`, by name and file, but for the known."""
    found: list[tuple[str, Path]] = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in before or not isinstance(file, str) or _is_generated(name):
            continue
        path = Path(file)
        if path.suffix != ".py" or not path.is_file() or not is_own(path):
            continue
        if known.get(name) != sha256_file(path):  # of another place there may be another of the name
            found.append((name, path))
    return sorted(found)


def _is_generated(name: str) -> bool:
    """True for code that an installed library wrote itself, such as what `torch.compile` makes."""
    first, dot, _ = name.partition(".")
    if first == "transformers_modules":
        return True
    file = getattr(sys.modules.get(first), "__file__", None)
    return bool(dot) and isinstance(file, str) and not is_own(Path(file))


def _folder_of(name: str, path: Path) -> Path:
    """The folder that a module is imported from."""
    ups = name.count(".") + (path.name == "__init__.py")
    return path.absolute().parents[ups]


def refuse_strangers(before: Set[str], known: Mapping[str, Any], where: str) -> None:
    """Raise UserError where a module of the user's was imported that could not be seen before the run."""
    found = strangers(before, known)
    if found:
        name, path = found[0]
        raise UserError(
            f"{where}: it loads {name} ({path}) in a way that is seen only when it runs, so that its scores "
            f"could not be told from those of another version of that file: put {_folder_of(name, path)} on "
            f"PYTHONPATH, and write `import {name}` into the file that needs it (below `if False:` will do)"
        )
