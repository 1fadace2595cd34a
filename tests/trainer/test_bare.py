"""Training on a machine that has torch, transformers and pyarrow, but none of the engine's libraries."""

import os
import shutil
import subprocess
import sys

from tests.conftest import RECIPE, ROOT

PROGRAM = """
import sys
from importlib.machinery import PathFinder

ABSENT = ["duckdb", "polars", "orjson", "rapidfuzz", "tomli_w"]
find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in ABSENT else find(name, path, target)

PathFinder.find_spec = staticmethod(find_others)
from schemas.errors import UserError
from schemas.store import open_store
import trainer.cli
from trainer.commands.run import training_recipe
from trainer.train import train

def refused(call):
    try:
        call()
    except UserError as error:
        print(error)

store = open_store(sys.argv[1])
refused(lambda: training_recipe(sys.argv[2], store, ["train.batch_syze=3"]))
recipe = training_recipe(sys.argv[2], store, ["train.max_steps=1", "train.batch_size=3"])
refused(lambda: train(store, recipe))
ABSENT.remove("tomli_w")
print("ended with", train(store, recipe).name)
assert not set(ABSENT) & set(sys.modules)
"""


def test_training_needs_no_library_of_the_engine(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, run, RECIPE],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    assert "batch_syze" in said[0] and "known are:" in said[0]
    assert said[1].endswith("pip install tomli-w")
    assert said[-1] == "ended with checkpoint-1"
