"""A data set by its name is fetched once, read from the library's cache, and named without it."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine import hub
from engine.inputs import inputs
from schemas.data_set_names import DataSetName, data_set_name
from schemas.errors import UserError
from schemas.recipe import load
from schemas.sections import Prompts
from tests.conftest import ROOT, command, preferences, settings
from tests.engine.test_inputs import made

datasets = pytest.importorskip("datasets")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = list(preferences(3, 14))
SPLITS = {"train": ROWS[:10], "test": ROWS[10:]}
PLAN = """
import json, sys
from engine.inputs import inputs
from schemas.errors import UserError
from schemas.sections import Prompts
for source in sys.argv[1:]:
    try:
        found = inputs(Prompts(source=(source,)))
        print(json.dumps([list(found.files), sorted(found.held_out)]))
    except UserError as error:
        print(error)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of prefmill's, and a folder in which no name is a path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "xdg" / "prefmill" / "datasets"


def prepared(folder: Path, cache_dir: Path) -> datasets.DatasetDict:
    """The data set as the library prepares it from files of Parquet."""
    folder.mkdir(parents=True)
    for split, values in SPLITS.items():
        datasets.Dataset.from_list(values).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return datasets.load_dataset(str(folder), cache_dir=str(cache_dir))


def hub_home(folder: Path) -> dict[str, str]:
    """An environment without a network whose cache of datasets holds some-org/prefs at COMMIT."""
    loaded = prepared(folder / "prefs", folder / "made")
    source = Path(loaded["train"].cache_files[0]["filename"]).parent
    target = folder / "home" / "datasets" / "some-org___prefs" / "default" / "0.0.0" / COMMIT
    shutil.copytree(source, target)
    # The Hub's own name for the cache: nothing of the folder that it was made from.
    assert sorted(path.name for path in target.glob("*.arrow")) == ["prefs-test.arrow", "prefs-train.arrow"]
    return os.environ | {
        "HF_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_thisIsNoTokenAtAll",
        "PYTHONPATH": str(ROOT),
    }


def planned(where: Path, env: dict[str, str], *sources: str) -> list[str]:
    """What a new process finds at each source, or why not."""
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *sources],
        env=env,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "hf_this" not in done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-len(sources) :]


# How it is named.


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("some-org/some_name", DataSetName("some-org/some_name")),
        ("org/name.v2@v1.0", DataSetName("org/name.v2", revision="v1.0")),
        ("org/name@refs/pr/1", DataSetName("org/name", revision="refs/pr/1")),
        ("org/name:en", DataSetName("org/name", config="en")),
        ("org/name:en@main", DataSetName("org/name", config="en", revision="main")),
        *[(path, None) for path in ("name", "a/b/c", "./a/b", "../b", "/a/b", "~/b", "a/*", "a/b,c/d", "a/")],
        *[(f"data/{name}", None) for name in ("x.jsonl", "x.JSON.GZ", "x.csv", "x.arrow", "x.txt", "x.zst")],
        ("https://org/name", None),
        ("hf://datasets/org/name", None),
    ],
)
def test_what_is_a_name(source, name, cache):
    assert data_set_name(source) == name
    assert name is None or str(name) == source


def test_a_path_that_is_there_is_a_path(cache):
    Path("org/name").mkdir(parents=True)
    assert data_set_name("org/name") is None
    with pytest.raises(UserError, match=r"org/nome; the folder org holds no such file"):
        inputs(Prompts(source=("org/nome",)))


def test_a_recipe_keeps_a_name_and_makes_paths_absolute(cache):
    Path("recipe.toml").write_text('[prompts]\nsource = ["org/name:en@v1", "data/x.jsonl", "data/*"]\n')
    recipe = load("recipe.toml", ["prompts.test_source=org/other"])
    prompts = recipe.section("prompts")
    here = os.getcwd()
    assert prompts.source == ("org/name:en@v1", f"{here}/data/x.jsonl", f"{here}/data/*")
    assert prompts.test_source == ("org/other",)


# What is read.


@pytest.mark.long
def test_every_shape_of_a_data_set_gives_the_same_rows(cache, tmp_path, monkeypatch):
    """JSON Lines is what the others are compared with."""
    import csv

    import pyarrow as pa
    import pyarrow.feather

    whole = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in SPLITS.items()})
    folders: dict[str, Path] = {}
    for name in ("jsonl", "csv", "tsv", "parquet", "arrow", "feather", "stream"):
        folders[name] = tmp_path / "shapes" / name
        folders[name].mkdir(parents=True)
    for split, rows in SPLITS.items():
        table = pa.Table.from_pylist(rows)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folders["jsonl"] / f"{split}.jsonl").write_text(lines)
        for name, dialect in (("csv", "excel"), ("tsv", "excel-tab")):
            with open(folders[name] / f"{split}.{name}", "w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), dialect=dialect)
                writer.writeheader()
                writer.writerows(rows)
        whole[split].to_parquet(folders["parquet"] / f"{split}.parquet")
        pyarrow.feather.write_feather(table, folders["feather"] / f"{split}.feather")
        for name, new in (("arrow", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
            with new(str(folders[name] / f"{split}.arrow"), table.schema) as file:
                file.write_table(table)
    folders["saved"] = tmp_path / "shapes" / "saved"
    whole.save_to_disk(folders["saved"])
    loaded = prepared(tmp_path / "prefs", tmp_path / "cache")
    files = {split: [Path(file["filename"]) for file in loaded[split].cache_files] for split in SPLITS}
    monkeypatch.setattr(hub, "_load", lambda name: files)
    sources = {name: str(folder) for name, folder in folders.items()} | {"name": "some-org/prefs"}
    results = {}
    for name, source in sources.items():
        found, rejects, counts = made(source=(source,), format="auto")
        assert not rejects
        by_id = {}
        for prompt in found:
            given = [(response["text"], response["comparison_id"]) for response in prompt["given"]]
            by_id[prompt["prompt_id"]] = (prompt["prompt"], prompt["given_split"], given)
        results[name] = (by_id, counts)
    assert len(results["jsonl"][0]) > 5 and results["jsonl"][1]["held_out"]
    for name, result in results.items():
        assert result == results["jsonl"], name


def test_files_are_named_without_the_cache(cache, tmp_path, monkeypatch):
    loaded = prepared(tmp_path / "prefs", tmp_path / "cache")
    files = {split: [Path(file["filename"]) for file in loaded[split].cache_files] for split in SPLITS}
    asked = []
    monkeypatch.setattr(hub, "_load", lambda name: asked.append(name) or files)
    found = inputs(Prompts(source=("some-org/prefs",)))
    assert list(found.files) == ["some-org/prefs/test/00000.arrow", "some-org/prefs/train/00000.arrow"]
    assert found.held_out == {"some-org/prefs/test/00000.arrow"}
    assert inputs(Prompts(source=("some-org/prefs:en",))).held_out == {"some-org/prefs/en/test/00000.arrow"}
    # Beside files, and as what is held out; an owner that says test says nothing.
    (tmp_path / "x.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    both = inputs(Prompts(source=(str(tmp_path / "x.jsonl"),), test_source=("some-org/prefs",)))
    assert list(both.files) == ["x.jsonl", *found.files] and both.of_test_source == set(found.files)
    assert inputs(Prompts(source=("test-org/prefs",))).held_out == {"test-org/prefs/test/00000.arrow"}
    assert list(map(str, asked)) == ["some-org/prefs", "some-org/prefs:en", "test-org/prefs"]


def test_it_is_fetched_once_and_again_where_its_files_are_gone(cache, tmp_path, monkeypatch, caplog):
    path = tmp_path / COMMIT / "prefs-train.arrow"
    path.parent.mkdir()
    path.touch()
    asked = []
    monkeypatch.setattr(hub, "_load", lambda name: asked.append(name) or {"train": [path], "none": []})
    caplog.set_level(logging.INFO, logger="prefmill")
    for _ in range(3):
        inputs(Prompts(source=("some-org/prefs",)), tell=True)
    assert len(asked) == 1
    (note,) = cache.iterdir()
    assert f"some-org/prefs: as it was fetched before ({COMMIT})" in caplog.text and str(note) in caplog.text
    # What is there needs no library.
    monkeypatch.setattr(hub, "_is_installed", lambda: False)
    assert list(inputs(Prompts(source=("some-org/prefs",))).files) == ["some-org/prefs/train/00000.arrow"]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(hub, "_load", lambda name: asked.append(name) or {"train": [path]})
    note.write_text("[broken")
    inputs(Prompts(source=("some-org/prefs",)))
    assert len(asked) == 2
    path.unlink()
    inputs(Prompts(source=("some-org/prefs",)))
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("Couldn't reach 'some-org/prefs' on the Hub"),
            "hf download some-org/prefs --repo-type",
        ),
        (RuntimeError("Dataset 'some-org/prefs' is a gated dataset on the Hub. Visit"), "hf auth login"),
        (
            FileNotFoundError("Dataset 'some-org/prefs' doesn't exist or cannot be accessed."),
            "check the name",
        ),
        (ValueError("Config name is missing. Available: ['en', 'de']"), '"some-org/prefs:CONFIG"'),
        (ValueError("Revision 'v9' doesn't exist for dataset"), '"some-org/prefs@REVISION"'),
        (OSError("No space left on device"), "OSError: No space left on device"),
        (RuntimeError("Invalid token hf_abcdefghijklmnop"), "Invalid token hf_…"),
    ],
)
def test_what_the_library_says_is_one_sentence_with_what_to_do(cache, monkeypatch, error, said):
    def fails(name):
        raise error

    monkeypatch.setattr(hub, "_load", fails)
    with pytest.raises(UserError) as raised:
        inputs(Prompts(test_source=("some-org/prefs",), source=("some-org/prefs",)))
    assert said in str(raised.value) and "prompts.source: some-org/prefs is no file here" in str(raised.value)
    assert "hf_abc" not in str(raised.value) and raised.value.__suppress_context__
    assert not cache.exists()


def test_a_data_set_without_rows_is_said(cache, monkeypatch):
    monkeypatch.setattr(hub, "_load", lambda name: {"train": []})
    with pytest.raises(UserError, match="some-org/prefs has no rows"):
        inputs(Prompts(source=("some-org/prefs",)))


# With the library itself, and no network.


def test_the_library_finds_it_in_its_cache(tmp_path):
    env = hub_home(tmp_path)
    files = ["some-org/prefs/test/00000.arrow", "some-org/prefs/train/00000.arrow"]
    exactly = f"some-org/prefs:default@{COMMIT}"
    sources = ("some-org/prefs", exactly, "some-org/prefs@v1", "some-org/prefs:fr", "some-org/another")
    plain, exact, of_tag, of_config, unknown = planned(tmp_path, env, *sources)
    for said in (plain, exact):
        names, held_out = json.loads(said)
        assert [name.replace("/default", "") for name in names] == files and len(held_out) == 1
    # Another revision than the one that is asked for is never read in its place.
    assert "the cache of datasets has another revision" in of_tag and COMMIT in of_tag
    assert "name one of its configurations" in of_config
    assert "ConnectionError" in unknown and "hf download some-org/another --repo-type dataset" in unknown
    refs = tmp_path / "home" / "hub" / "datasets--some-org--prefs" / "refs"
    refs.mkdir(parents=True)
    (refs / "v1").write_text(COMMIT)
    (said,) = planned(tmp_path, env, "some-org/prefs@v1")
    assert json.loads(said)[0] == files
    # What was found before needs the library's cache alone.
    (said,) = planned(tmp_path, env | {"HF_HUB_OFFLINE": ""}, "some-org/prefs")
    assert json.loads(said)[0] == files


@pytest.mark.long
def test_a_run_from_a_name_goes_on_without_the_hub(tmp_path, model_path):
    env = hub_home(tmp_path)
    recipe = ROOT / "pipelines" / "recipes" / "dpo.toml"
    asked = settings(prompts__source="some-org/prefs", prompts__shards=2, model__name=model_path)
    first = command("engine", "precompute", recipe, "-o", tmp_path / "run", *asked, env=env, cwd=tmp_path)
    assert "14 of the first 14 rows" in first.stderr
    again = command("engine", "precompute", recipe, "-o", tmp_path / "run", *asked, env=env, cwd=tmp_path)
    assert "nothing to do" in again.stderr + again.stdout
    (tmp_path / "elsewhere").mkdir()
    state = command("engine", "status", tmp_path / "run", env=env, cwd=tmp_path / "elsewhere")
    assert "2/2" in state.stdout


@pytest.mark.parametrize("answers", [True, False])
def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, answers):
    """The library's own retries take half a minute; where the Hub answers nothing changes."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            if not answers:
                raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with hub._offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is datasets.config.HF_HUB_OFFLINE is (not answers)
    assert constants.HF_HUB_OFFLINE is datasets.config.HF_HUB_OFFLINE is False
    assert asked == [constants.ENDPOINT]
