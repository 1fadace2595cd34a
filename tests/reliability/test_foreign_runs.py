"""Code that is not the user's, or that ends the program: a run folder passed on runs nothing untold, whatever
was taken out of it, and no function of a recipe ends a run as if it were done."""

import contextlib
import json
import shutil
import sys
import zipfile

import click
import pytest

from engine.commands.precompute import precompute
from engine.user_function import load as load_function
from schemas.commands import Command
from schemas.errors import NothingMade, UserError, exit_on_user_error
from schemas.ownership import why_foreign, why_of_a_run
from schemas.recipe import load
from tests.conftest import preferences

RECIPE = """
[prompts]
source = "{folder}/rows.jsonl"
format = "preference"
shards = 1
[given]
[check]
function = "{function}"
"""
SCORE = "def score(messages, response):\n    return 1.0\n"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """recipe(function) -> the path of a recipe of the user's own."""
    rows = "".join(json.dumps(row) + "\n" for row in preferences(4, 3))
    (tmp_path / "rows.jsonl").write_text(rows)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def recipe(function: str, place: str = "mine/recipe.toml"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECIPE.format(folder=tmp_path, function=function))
        return path

    return recipe


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def scores(run):
    from engine.views import views
    from schemas.store import open_store

    table = views(open_store(run))["scores"].to_table(columns=["scorer", "score"])
    return [row["score"] for row in table.to_pylist() if row["scorer"] == "check"]


HEX = "0123456789ab"
REMAINS = (
    "plan.json",
    "scanned.json",
    "facts.json",
    "made_with.json",
    "check-0123456789ab/",
    "train-0123456789ab/",
)


def test_any_remains_of_a_run_make_all_below_foreign(tmp_path, trials):
    """And a project folder with runs below it is the user's own."""
    with trials("the remains of a run folder") as trial:
        for number, name in enumerate(REMAINS):
            with trial(name):
                run = tmp_path / str(number) / "runs" / "hh"
                recipe = written(run / "recipes" / "deep" / "recipe.toml", "")
                assert not why_foreign(recipe)
                (run / name).mkdir() if name.endswith("/") else (run / name).write_text("{}")
                assert f"in the run folder {run}" in why_foreign(recipe)
                own = written(run.parent.parent / "recipe.toml", "")
                assert not why_foreign(own) and not why_of_a_run(own)


def test_a_passed_on_folder_runs_its_code_only_with_trust(made, tmp_path, trials):
    """Its plan taken away, its recipe moved, or its code named by a recipe of the user's own."""
    foreign = tmp_path / "foreign"
    marks = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    function = f"{written(foreign / 'code' / 'ev.py', marks + SCORE)}:score"
    inside = made(function, "foreign/recipe.toml")
    deep = made(function, "foreign/recipes/recipe.toml")
    own = made(function)

    def refused(recipe, out, settings=()):
        with pytest.raises(UserError, match=r"somebody else's .*ev\.py:score.* --trust"):
            precompute(out, load(recipe, settings), 1)
        assert not (tmp_path / "ran").exists()

    with trials("code of a passed-on run folder") as trial:
        with trial("nothing but a recipe in the folder to write into"):
            refused(inside, foreign)
        (foreign / "given-0123456789ab").mkdir()
        for name, recipe, out in (
            ("the plan taken away", inside, foreign),
            ("a recipe deep in it", deep, tmp_path / "out"),
            ("code in it", own, tmp_path / "out"),
        ):
            with trial(name):
                refused(recipe, out)
        with trial("typed"):
            precompute(tmp_path / "typed", load(own, [f"check.function={function}"]), 1)
            assert (tmp_path / "ran").exists()
        with trial("trusted"):
            precompute(tmp_path / "out", load(own), 1, trust=True)
            assert set(scores(tmp_path / "out")) == {1.0}


PANIC = "raise type('Panic', (BaseException,), {})('p')"
ENDINGS = (
    "sys.exit(0)",
    "raise SystemExit",
    "raise GeneratorExit",
    "raise type('Panic', (BaseException,), {})('p')",
)


def test_a_function_that_ends_the_program_is_a_reject(made, tmp_path, trials):
    head = "import sys, itertools\nturn = itertools.count()\ndef end():\n    number = next(turn) % 4\n"
    for number, ending in enumerate(ENDINGS):
        head += f"    if number == {number}:\n        {ending}\n"
    one = "def score(messages, response):\n    end()\n"
    batch = "def score(messages, responses):\n    yield 1.0\n    end()\n"
    with trials("a check that ends the program") as trial:
        for kind, text, settings in (("one", one, []), ("batch", batch, ["check.batch_size=4"])):
            with trial(f"one of each, {kind}"):
                file = written(tmp_path / f"{kind}.py", head + text)
                precompute_all_rejected(tmp_path / kind, load(made(f"{file}:score"), settings))
        for number, ending in enumerate(ENDINGS):
            with trial(f"{ending}, at the import"):
                file = written(tmp_path / f"import{number}.py", f"import sys\n{SCORE}{ending}\n")
                with pytest.raises(UserError, match=r"does not import: (System|Generator|Panic)"):
                    load_function(f"{file}:score")


def precompute_all_rejected(run, recipe):
    with contextlib.suppress(NothingMade):
        precompute(run, recipe, 1)
    found = scores(run)
    assert found and set(found) == {None}


def test_the_program_ends_well_only_by_its_own_word(capsys):
    """A `sys.exit(0)` of other code is told with status 1; click's own `exit` keeps its status."""

    @click.command(cls=Command)
    @click.option("--how")
    @click.pass_context
    def command(ctx, how):
        if how == "click":
            ctx.exit(5)
        if how == "user":
            raise UserError("told once")
        if how:
            sys.exit(0)

    for words, status in (([], 0), (["--how", "click"], 5), (["--how", "exit"], 1), (["--how", "user"], 1)):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == status, words
    with pytest.raises(SystemExit) as ended, exit_on_user_error("kept"), exit_on_user_error("kept"):
        sys.exit("why")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("told once") == 1 and said.count("sys.exit(0) in") == 1
    assert said.count("sys.exit('why') in") == 1


def test_a_folder_that_a_check_puts_on_the_path_is_followed(made, tmp_path, monkeypatch, capsys):
    """Its modules are a part of the scores' name, so a change of one makes new scores."""
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("'lib0'", "str(pathlib.Path(__file__).parent / 'lib1')")):
        module = f"qq_reliability_{number}"
        written(tmp_path / f"lib{number}" / f"{module}.py", "SCORE = 1.0\n")
        head = f"import sys, pathlib\nsys.path.insert(0, {folder})\nimport {module}\n"
        file = written(tmp_path / f"by{number}.py", head + SCORE.replace("1.0", f"{module}.SCORE"))
        recipe = made(f"{file}:score", f"mine{number}/recipe.toml")
        run = tmp_path / f"run{number}"
        precompute(run, load(recipe), 1)
        assert set(scores(run)) == {1.0}
        written(tmp_path / f"lib{number}" / f"{module}.py", "SCORE = 22.0\n")
        precompute(run, load(recipe), 1)
        assert set(scores(run)) == {22.0}


def test_a_module_of_another_folder_under_a_planned_name_is_refused(made, tmp_path, monkeypatch):
    written(tmp_path / "hidden" / "qq_twice.py", "SCORE = 2.0\n")
    written(tmp_path / "seen" / "qq_twice.py", "SCORE = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "seen"))
    monkeypatch.setenv("HIDDEN", str(tmp_path / "hidden"))
    head = "import sys, os\nsys.path.insert(0, os.environ['HIDDEN'])\nimport qq_twice\n"
    file = written(tmp_path / "twice.py", head + SCORE.replace("1.0", "qq_twice.SCORE"))
    with pytest.raises(UserError, match=rf"it loads qq_twice .*put {tmp_path / 'hidden'} on PYTHONPATH"):
        precompute(tmp_path / "run", load(made(f"{file}:score")), 1)
    sys.modules.pop("qq_twice", None)
    monkeypatch.syspath_prepend(str(tmp_path / "hidden"))
    precompute(tmp_path / "run", load(made(f"{file}:score")), 1)
    assert set(scores(tmp_path / "run")) == {2.0}


def test_a_module_in_a_zip_is_told_and_unpacked_it_works(made, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("qq_zipped.py", "SCORE = 3.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib.zip"))
    file = written(tmp_path / "z.py", "import qq_zipped\n" + SCORE.replace("1.0", "qq_zipped.SCORE"))
    with pytest.raises(UserError, match=r"a module in a zip is not read: unpack it"):
        precompute(tmp_path / "run", load(made(f"{file}:score")), 1)
    shutil.unpack_archive(tmp_path / "lib.zip", tmp_path / "unpacked")
    sys.path.remove(str(tmp_path / "lib.zip"))
    monkeypatch.syspath_prepend(str(tmp_path / "unpacked"))
    precompute(tmp_path / "run", load(made(f"{file}:score")), 1)
    assert set(scores(tmp_path / "run")) == {3.0}


def test_what_is_loaded_past_the_imports_is_said(made, tmp_path, capsys):
    written(tmp_path / "other.py", "SCORE = 4.0\n")
    head = f"exec(open({str(tmp_path / 'other.py')!r}).read())\n"
    file = written(tmp_path / "e.py", head + SCORE.replace("1.0", "SCORE"))
    precompute(tmp_path / "run", load(made(f"{file}:score")), 1)
    assert "uses exec of a file in line 1" in capsys.readouterr().out
    assert set(scores(tmp_path / "run")) == {4.0}
