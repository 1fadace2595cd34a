"""dtype = "auto": resolved by the run that is there, else by the machine, and in no fact."""

import json
import shutil
import tomllib
from types import SimpleNamespace

import pytest

from engine.commands.precompute import precompute
from engine.commands.status import status
from engine.models.spec import ModelSpec, resolve
from engine.plan import plan
from schemas import devices
from schemas.dtypes import resolved
from schemas.manifest import PLAN, RECIPE
from schemas.recipe import load, load_of_run
from schemas.sections import Model
from schemas.store import open_store
from tests.conftest import preferences
from trainer.job import plan as plan_training

RECIPE_TEXT = """
[model]
[prompts]
shards = 1
[given]
[logprobs]
[pairs]
[train]
max_steps = 1
"""


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_GPU_FILES", ())


def put_gpus(monkeypatch, *capabilities):
    """This machine has GPUs of these compute capabilities."""
    monkeypatch.setattr(devices, "gpu_is_there", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: capabilities[index])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, model_path):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 7)))
    (folder / "own.toml").write_text(RECIPE_TEXT)

    def read(*settings):
        given = (f"prompts.source={folder / 'rows.jsonl'}", f"model.name={model_path}", *settings)
        return load(folder / "own.toml", given)

    return read


@pytest.fixture(scope="module")
def made_on_gpu(recipe, tmp_path_factory):
    """A run folder that was begun where there was a GPU. (It computed in bfloat16 on the CPU.)"""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as on_gpu:
        put_gpus(on_gpu, (8, 0))
        taken, _ = resolved(recipe("model.backend=hf"), open_store(path))
    precompute(path, taken, 1)
    return path


@pytest.fixture
def run(made_on_gpu, tmp_path):
    shutil.copytree(made_on_gpu, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("device", "capabilities", "dtype"),
    [
        ("auto", [(8, 0)], "bfloat16"),
        ("auto", [(9, 0), (7, 5)], "float32"),
        ("auto", [(7, 0)], "float32"),
        ("cuda:0", [(9, 0), (7, 5)], "bfloat16"),
        ("cuda:1", [(9, 0), (7, 5)], "float32"),
        ("cuda", [(8, 9), (8, 9)], "bfloat16"),
        ("cpu", [(9, 0)], "float32"),
    ],
)
def test_the_device_says_it_where_there_is_no_run(monkeypatch, model_path, device, capabilities, dtype):
    put_gpus(monkeypatch, *capabilities)
    model = resolve(ModelSpec(Model(name=str(model_path), device=device), "hf"))
    assert model.facts()["dtype"] == model.spec.config.dtype == dtype


def test_auto_on_a_cpu_is_the_run_that_float32_made(no_gpu, recipe, tmp_path):
    store = open_store(tmp_path / "run")
    named = recipe("model.dtype=float32")
    assert resolved(named, store) == (named, ())
    assert resolved(recipe(), store) == (named, ("model.dtype = auto: float32, by the device here",))


def test_a_run_made_on_a_gpu_stays_itself_on_a_machine_without(recipe, run, capsys):
    store = open_store(run)
    assert "auto" not in json.dumps(json.loads(store.read(PLAN))["stages"])
    assert tomllib.loads(store.read(RECIPE).decode())["model"]["dtype"] == "bfloat16"

    precompute(store, recipe("model.backend=hf"), 1)
    assert "nothing to do" in capsys.readouterr().out
    status(store, recipe("model.backend=hf"))
    status(store, load_of_run(store))
    said = capsys.readouterr().out
    assert "is not what the recipe asks for" not in said
    assert "1/1" in said

    job = plan_training(store, recipe("model.backend=hf"))
    assert job.recipe.section("model").dtype == "bfloat16"
    assert job.facts["train"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("what", ["edited", "no recipe", "no plan", "damaged plan"])
def test_a_run_whose_recipe_or_plan_is_lost_is_still_itself(recipe, run, what):
    store = open_store(run)
    if what == "edited":
        (run / RECIPE).write_text((run / RECIPE).read_text().replace("bfloat16", "float32"))
    elif what == "no recipe":
        (run / RECIPE).unlink()
    elif what == "no plan":
        (run / PLAN).unlink()
    else:
        (run / PLAN).write_text("{}")
    taken, remarks = resolved(recipe(), store)
    assert taken == recipe("model.dtype=bfloat16")
    assert remarks == (f"model.dtype = auto: bfloat16, as {store} was made",)


def test_a_dtype_that_the_recipe_names_wins(recipe, run):
    named = recipe("model.dtype=float32")
    assert resolved(named, open_store(run)) == (named, ())
    assert plan(run, named).models["logprobs"].facts()["dtype"] == "float32"


def test_a_reward_model_has_a_dtype_of_its_own(monkeypatch, recipe, tmp_path):
    put_gpus(monkeypatch, (9, 0))
    given = recipe("model.dtype=float32", "reward.model=somewhere")
    taken, remarks = resolved(given, open_store(tmp_path / "run"))
    assert (taken.section("model").dtype, taken.section("reward").dtype) == ("float32", "bfloat16")
    assert remarks == ("reward.dtype = auto: bfloat16, by the device here",)


def test_a_judges_own_dtype_is_not_taken_for_that_of_the_model(recipe, run):
    """Of a run whose recipe is lost; its judge, which is planned first, runs in a dtype of its own."""
    store = open_store(run)
    (run / RECIPE).unlink()
    plan_of_run = json.loads(store.read(PLAN))
    scored = next(stage for stage in plan_of_run["stages"] if stage["stage"] == "logprobs")
    facts = scored["facts"] | {"model": scored["facts"]["model"] | {"dtype": "float16"}}
    judged = scored | {"stage": "judge", "facts": facts}
    with pytest.MonkeyPatch.context() as patch:
        read = [SimpleNamespace(stage=one["stage"], facts=one["facts"]) for one in (judged, scored)]
        patch.setattr("schemas.dtypes.read_plan", lambda run: (read, None))
        taken, _ = resolved(recipe(), store)
        assert taken.section("model").dtype == "bfloat16"
        patch.setattr("schemas.dtypes.read_plan", lambda run: (read[:1], None))
        taken, _ = resolved(recipe(), store)
        assert taken.section("model").dtype == "float16", "where nothing else says it"
