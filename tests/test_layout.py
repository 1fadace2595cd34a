"""The house keeps its shape.

Who imports whom, who touches a run folder, how large things are, what stands at the top.
"""

import ast
import importlib
import importlib.util
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = {
    "schemas": set(),
    "engine": {"schemas"},
    "trainer": {"schemas"},
    "pipelines": {"schemas", "engine", "trainer"},
}
INSIDE = ROOT / "pipelines" / "docs" / "inside.md"  # the tree of the sources
PATHS = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# Modules that write files, and why that is not a second door to a run folder.
WRITERS = {
    "schemas/store.py": "the door",
    "schemas/local_store.py": "the door to a disk",
    "schemas/object_cache.py": "keeps files of object storage in the user's cache folder",
    "schemas/copies.py": "keeps copies of objects in the user's cache folder",
    "schemas/mirror.py": "removes such copies",
    "schemas/bucket.py": "fills a local path that the cache gave it",
    "schemas/digest.py": "remembers digests in the user's cache folder",
    "schemas/seen.py": "remembers digests in the user's cache folder",
    "schemas/model_files.py": "links a model's files into a temporary folder, for its loader",
    "schemas/model_copies.py": "fills local paths that a store gave it",
    "engine/models/vllm/shared_memory.py": "removes shared memory that an ended engine left",
    "engine/hub.py": "remembers in the user's cache folder where a data set's files lie",
    "schemas/disk.py": "what the door is made of",
    "schemas/locks.py": "what the door is made of",
    "engine/scan.py": "fills local paths that a store gave it",
    "engine/scan_parts.py": "fills local paths that a store gave it",
    "engine/export/forms.py": "fills a local path that a store gave it: the user's own folder",
    "engine/commands/report.py": "fills a local path that the store gave it: the user's page",
    "engine/commands/export.py": "fills a local path that a store gave it: the user's own folder",
    "engine/commands/prompt.py": "keeps the prompt's history in the user's cache folder",
    "trainer/checkpoint.py": "fills local paths that a store gave it",
    "trainer/state.py": "fills a local path that a store gave it",
    "trainer/adapter_files.py": "fills a local path that a store gave it",
    "trainer/tensor_file.py": "fills a local path that a store gave it",
    "trainer/merge.py": "fills a local path that a store gave it",
    "trainer/commands/compare.py": "fills a local path that the store gave it: the user's picture",
    "pipelines/sandbox/make.py": "writes the model that ships",
    "pipelines/docs/__main__.py": "writes parts of the pages that ship",
    "pipelines/evidence/caches.py": "writes problems, and lays the pairs of each variant into a folder",
    "pipelines/evidence/work.py": "writes what was measured, beside the trainings",
    "pipelines/evidence/tables.py": "writes the test problems",
    "pipelines/evidence/page.py": "writes what was found into a page that ships",
    "pipelines/evidence/real.py": "removes the merged model that it made to measure it",
    "pipelines/evidence/trial.py": "writes pages and pictures of a claim",
}
WRITING_METHODS = {
    "write_text",
    "write_bytes",
    "mkdir",
    "unlink",
    "rmdir",
    "rename",
    "rmtree",
    "symlink_to",
    "hardlink_to",
    "touch",
    "copyfile",
    "copytree",
    "move",
}


def name_of(path: Path) -> str:
    """engine.models.hf for engine/models/hf.py, engine.models for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}
each_module = pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """What a module imports, at its top or inside a function. A module named in a string counts, too."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                names.add(submodule if submodule in MODULES else module)
        elif isinstance(node, ast.Constant) and node.value in MODULES and "." in str(node.value):
            names.add(str(node.value))
    return names


@each_module
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops & PACKAGES.keys() <= PACKAGES[package] | {package}
    if package == "trainer":
        assert not tops & {"vllm", "duckdb", "tokenizers"}
    if "vllm" in tops:
        assert path.relative_to(ROOT).as_posix().startswith("engine/models/vllm/")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a walk along the edges comes back on."""
    done: set[str] = set()
    way: list[str] = []
    found: list[list[str]] = []

    def walk(name: str) -> None:
        if name in way:
            found.append([*way[way.index(name) :], name])
            return
        if name in done:
            return
        way.append(name)
        for other in sorted(graph.get(name, ())):
            walk(other)
        way.pop()
        done.add(name)

    for name in sorted(graph):
        walk(name)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"a"}}) == [["a", "a"]]


def test_no_module_imports_itself_in_a_circle():
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    assert graph["engine.cli"] > {"engine.commands.sql"}, "lazy imports by name are counted"
    assert circles(graph) == []


@each_module
def test_nothing_outside_pipelines_reaches_into_it_by_path(path):
    """Who starts the program hands over where packaged prompts and SQL lie (schemas/extensions.py)."""
    if path.relative_to(ROOT).parts[0] == "pipelines":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("pipelines"), f"line {node.lineno}: {node.value!r}"


def writes(path: Path) -> Iterator[int]:
    """The lines on which a module writes, moves or removes files."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in WRITING_METHODS:
            yield node.lineno
        if isinstance(function, ast.Attribute) and ast.unparse(function) in ("os.replace", "os.remove"):
            yield node.lineno
        if isinstance(function, ast.Name) and function.id == "open" and len(node.args) > 1:
            mode = node.args[1]
            if not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+"):
                yield node.lineno


def test_every_writer_is_there():
    assert all((ROOT / path).is_file() for path in WRITERS)


@each_module
def test_only_the_store_writes_into_a_run(path):
    if path.relative_to(ROOT).as_posix() not in WRITERS:
        assert list(writes(path)) == []


@each_module
def test_a_module_says_what_it_is_and_is_small(path):
    assert ast.get_docstring(tree(path)), "no docstring"
    assert path.read_text().count("\n") <= 300
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 45, f"{node.name} has more than 45 lines"


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@each_module
def test_no_comprehension_is_inside_another(path):
    for outer in ast.walk(tree(path)):
        if isinstance(outer, COMPREHENSIONS):
            inner = [node for node in ast.walk(outer) if isinstance(node, COMPREHENSIONS)]
            assert inner == [outer], f"line {outer.lineno}"


def test_the_top_level_is_the_one_that_was_fixed():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {file.split("/")[0] for file in done.stdout.split()}
    visible = {name for name in tops if not name.startswith(".")}
    assert visible == {
        "engine",
        "trainer",
        "schemas",
        "pipelines",
        "tests",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }


def test_the_tree_of_the_docs_is_the_tree():
    tree = INSIDE.read_text()
    for path in PATHS:
        if path.name == "__init__.py":
            continue
        if path.parent.name in PACKAGES:
            assert f"\n  {path.name} " in tree, f"{INSIDE.name} lacks {path.relative_to(ROOT)}"
        else:
            folder_is_there = f"{path.parent.name}/" in tree
            file_is_there = path.name in tree or path.stem in tree
            assert folder_is_there and file_is_there, f"{INSIDE.name} lacks {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=name_of)
def test_what_a_bench_takes_of_ours_is_there(path):
    """A bench runs seldom: what it imports within its functions would be missed long after it was renamed."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in PACKAGES:
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            is_module = (
                importlib.util.find_spec(f"{node.module}.{alias.name}") if is_package(module) else None
            )
            assert hasattr(module, alias.name) or is_module, f"line {node.lineno}: {node.module}.{alias.name}"


def is_package(module) -> bool:
    return hasattr(module, "__path__")
