"""The house keeps its shape: who imports whom, what stands at the top, which words a module opens with."""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = {
    "schemas": set(),
    "engine": {"schemas"},
    "trainer": {"schemas"},
    "pipelines": {"schemas", "engine", "trainer"},
}
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops & PACKAGES.keys() <= PACKAGES[package] | {package}
    if package == "trainer":
        assert not tops & {"vllm", "duckdb", "tokenizers"}
    if "vllm" in tops:
        assert path.relative_to(ROOT).as_posix() == "engine/models/vllm.py"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "no docstring"


def test_the_top_level_is_the_one_that_was_fixed():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    tops = {file.split("/")[0] for file in files} - {
        name for name in (file.split("/")[0] for file in files) if name.startswith(".")
    }
    assert tops == {
        "engine",
        "trainer",
        "schemas",
        "pipelines",
        "tests",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }


def test_the_readmes_tree_is_the_tree():
    readme = (ROOT / "README.md").read_text()
    for path in MODULES:
        if path.name != "__init__.py" and path.parent.name in PACKAGES:
            assert f"      {path.name} " in readme, f"README's tree lacks {path.relative_to(ROOT)}"
        elif path.name != "__init__.py":
            assert f"{path.parent.name}/" in readme and (path.name in readme or path.stem in readme), (
                f"README's tree lacks {path.relative_to(ROOT)}"
            )
