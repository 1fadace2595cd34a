"""A user's file is known by its text: where it lies, what it imports, what its names are. Nothing is run."""

import ast
import sys

import pytest

from engine import python_names
from engine.python_sources import levels, modules_of, source_of_file
from engine.stages import check
from schemas.errors import UserError
from schemas.sections import Check
from tests.engine.planned import planning

STOP = "raise SystemExit('it was run')\n"


@pytest.fixture
def lib(tmp_path, monkeypatch):
    """A folder on Python's path; writes files there."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, text: str = ""):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STOP + text)
        return path

    return write


def facts(function: str):
    config = Check(function)
    return check.facts(config, planning({"check": config}, "check"))


def imports(path) -> list[str]:
    return [module.name for module in modules_of(source_of_file(str(path)), "x")[0]]


def test_a_module_is_found_without_running_what_it_is_in(lib):
    lib("outer/__init__.py")
    lib("outer/inner/mine.py", "def score(m, r): ...\n")  # outer.inner has no __init__.py
    found = levels("outer.inner.mine")
    assert [source.name for source in found] == ["outer", "outer.inner.mine"]
    assert facts("outer.inner.mine:score")["function"] == "outer.inner.mine:score"
    assert not {"outer", "outer.inner"} & sys.modules.keys()


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("import helper", ["helper"]),
        ("import pack.a", ["pack", "pack.a"]),
        ("from pack import a", ["pack", "pack.a"]),
        ("from pack import *", ["pack"]),
        ("import json, numpy, pyarrow.parquet, schemas.errors, pipelines", []),
        ("def f():\n    import helper", ["helper"]),
        ("try:\n    import nowhere\nexcept ImportError:\n    import helper", ["helper"]),
        ("import importlib\nimportlib.import_module('pack.a')", ["pack", "pack.a"]),
        ("from chain import one", ["chain", "helper"]),
        ("import circle", ["circle", "circle2"]),
    ],
)
def test_imports_are_found_in_every_form(lib, tmp_path, statement, wanted):
    for name in ("helper.py", "pack/__init__.py", "pack/a.py"):
        lib(name)
    lib("chain.py", "import helper\n")
    lib("circle.py", "import circle2\n")
    lib("circle2.py", "import circle\n")
    path = tmp_path / "mine.py"
    path.write_text(statement + "\n")
    assert imports(path) == wanted


def test_relative_imports_begin_at_the_package(lib):
    lib("pack/__init__.py", "from . import a\n")
    lib("pack/a.py")
    lib("pack/low/__init__.py")
    lib("pack/low/mine.py", "from .. import a\nfrom . import other\nfrom ... import out\n")
    lib("pack/low/other.py")
    (source,) = levels("pack.low.mine")[-1:]
    found = [module.name for module in modules_of(source, "x")[0]]
    assert found == ["pack", "pack.a", "pack.low", "pack.low.other"]


def test_a_file_without_imports_of_the_user_s_has_the_facts_that_it_had(tmp_path, lib):
    lib("pack/__init__.py")
    (tmp_path / "lib/pack/__init__.py").write_text('"""A docstring runs nothing."""\n')
    for place in (tmp_path / "mine.py", lib("pack/mine.py")):
        place.write_text("import json\nimport numpy\ndef score(m, r): ...\n")
    assert facts(f"{tmp_path}/mine.py:score").keys() == {"function", "source"}
    assert facts("pack.mine:score").keys() == {"function", "source"}
    assert facts("pipelines.sandbox.world:reward").keys() == {"function", "source"}


CODE = """
import functools
def plain(m, r): ...
def asks(m, r, *, reference=None): ...
shown = lambda m, r, reference: 1
alias = asks
part = functools.partial(asks, reference=1)
class Scorer:
    def __init__(self, size=1): ...
    def __call__(self, m, r, reference): ...
made = Scorer()
if True:
    def within(m, r, reference): ...
from there import asks as brought
table = {}
"""


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("plain", False),
        ("asks", True),
        ("shown", True),
        ("alias", True),
        ("part", True),
        ("made", True),
        ("within", True),
        ("brought", True),
        ("table", False),
    ],
)
def test_a_parameter_is_seen_where_the_text_shows_it(tmp_path, name, asks):
    (tmp_path / "there.py").write_text("def asks(m, r, reference): ...\n")
    (tmp_path / "mine.py").write_text(CODE)
    assert facts(f"{tmp_path}/mine.py:{name}").get("reference", False) is asks


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def scores(m, r): ...", r"has no function score; did you mean 'scores'"),
        ("def score(:", r"mine.py, line 1 is no Python: "),
        ("x = '\0'", "cannot be read as Python|is no Python"),
        ("async def score(m, r): ...", "without async"),
        ("(" * 5000, "is no Python|cannot be read"),
    ],
)
def test_what_cannot_be_a_function_is_refused_with_its_place(tmp_path, code, said):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=said):
        facts(f"{tmp_path}/mine.py:score")


@pytest.mark.parametrize(
    "code",
    ["from there import *", "globals()['score'] = len", "def __getattr__(name): ...", "for score in []: ..."],
)
def test_a_name_that_only_a_run_would_show_is_let_through(tmp_path, code):
    assert not python_names.is_certainly_absent(ast.parse(code), "score")
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "there.py").write_text("def score(m, r): ...\n")
    assert facts(f"{tmp_path}/mine.py:score")["source"]


def test_a_pipe_is_no_source(tmp_path):
    import os

    os.mkfifo(tmp_path / "mine.py")
    with pytest.raises(UserError, match="there is no file"):
        facts(f"{tmp_path}/mine.py:score")
