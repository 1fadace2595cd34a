"""A recipe says what it means or is refused with a hint."""

import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.recipe import dump, load
from schemas.sections import Model, Prompts, Train
from tests.conftest import RECIPE, ROOT


def write(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[trian]\nloss = 'dpo'", "unknown section [trian]; did you mean 'train'?"),
        ("[train]\nlerning_rate = 1e-6", "no key 'lerning_rate'; did you mean 'learning_rate'?"),
        ("[train]\nepochs = 'two'", "[train] epochs must be int, not str ('two')"),
        ("[train]\nepochs = true", "must be int, not bool"),
        ("[train]\nepochs = 1.5", "must be int, not float"),
        ("prompts = 3", "must be a section"),
        ("seed = 'x'", "seed must be int"),
        ("[train", "is not TOML"),
        ("seed = -1", "seed = -1: expected 0 or more"),
        ("[prompts]\nshards = -3", "shards = -3"),
        ("[prompts]\nmax_row_bytes = 0", "max_row_bytes = 0"),
        ("[logprobs]\nmax_length = -5", "max_length = -5: expected a number of at least 0"),
        ("[pairs]\ntest_share = 1.5", "test_share = 1.5: expected a number of at least 0 and at most 1"),
        ("[train]\nlearning_rate = nan", "learning_rate = nan"),
        ("[train]\nlearning_rate = 0", "learning_rate = 0.0: expected a number above 0"),
        ("[train]\nmax_grad_norm = -1", "max_grad_norm = -1"),
        ("[train]\nkeep = -1", "keep = -1"),
        ("[train]\nwarmup_ratio = 5", "warmup_ratio = 5"),
        ("[train]\nbetas = [0.9]", "expected two numbers"),
        ("[model]\ndate = 'today'", "expected a day as YYYY-MM-DD"),
        (
            "[model]\ndtype = 'fp8'",
            "r.toml: [model] dtype = fp8; known are: auto, bfloat16, float16, float32",
        ),
        ("[model]\ndevice = 'gpu'", "expected auto, cpu, cuda or one GPU such as cuda:1"),
        ("[model.vllm]\nmax_model_len = 0", "[model.vllm] max_model_len = 0: expected a whole number"),
        ("[model.vlm]\nx = 1", "has no table [model.vlm]; there is [model.vllm]"),
        ("[model]\nvllm = 3", "has no key 'vllm'"),
        ("[train]\ndtype = 'fp16'", "r.toml: [train] dtype = fp16; known are: auto, bfloat16, float32"),
        ("[train]\noptimizer = 'adm'", "optimizer = adm; did you mean 'adamw'?"),
        ("[train]\nschedule = 'step'", "schedule = step"),
        ("[train]\nloss = 'bmk'", "did you mean 'bmc'?"),
        ("[train.dpo]\nbeta = -1.0", "[train.dpo] beta = -1.0: expected a number above 0"),
        ("[train.dpo]\nbetta = 1", "[train.dpo] has no key 'betta'; did you mean 'beta'?"),
        ("[train.sft]\nreduction = 'max'", "[train.sft] reduction = max"),
        ("[train]\nloss = 'r_dpo'\n[train.r_dpo]\nalpha = nan", "alpha = nan: expected a finite number"),
        (
            "[train]\nloss = 'score_margin'\n[train.score_margin]\nscorer = 'ratings'",
            "did you mean 'rating'?",
        ),
        ("[logprobs]\ntoo_long = ['x']", "too_long = ['x'] has 'x'"),
        ("[logprobs]\ntoo_long = ['drop', 'truncate_response']", "drop beside another way"),
        ("[pairs]\nscorer = 'ratings'", "scorer = ratings: did you mean 'rating'?"),
        ("[pairs]\nscored_by = ['rating', 'pairwse']", "has 'pairwse': did you mean 'pairwise'?"),
        ("[judge]\nkinds = ['rating', 'rating']", "expected at least one, and none twice"),
        ("[check]\nfunction = 'score'", "expected package.module:name or path/file.py:name"),
    ],
)
def test_what_is_wrong_is_named_with_a_hint(tmp_path, text, hint):
    with pytest.raises(UserError) as error:
        load(write(tmp_path, text))
    assert hint in str(error.value)


@pytest.mark.parametrize(("old", "new"), [("rpo.sft", "rpo.reduction"), ("sft.kind", "sft.reduction")])
def test_former_names_still_read_and_give_the_same_facts(tmp_path, old, new):
    """Facts keep the former name, so train folders keep theirs."""
    from trainer.losses import choose

    path = write(tmp_path, "[train]\nloss = 'rpo'\n[train.sft]\nweight = 0.1")
    objectives = [choose(load(path, [f"train.{name}=sum"]).section("train")) for name in (old, new)]
    assert objectives[0] == objectives[1] and objectives[0].facts() == objectives[1].facts()
    assert objectives[0].facts()["sft"]["kind"] in ("sum", "mean")
    with pytest.raises(UserError, match="which are one setting: keep 'reduction'"):
        load(path, [f"train.{old}=sum", f"train.{new}=mean"])


def test_no_cap_is_a_cap_of_infinity(tmp_path):
    from trainer.losses import choose

    recipe = load(write(tmp_path, "[train]\nloss = 'bmc'"), ["train.bmc.delta=inf"])
    assert choose(recipe.section("train")).config.delta == float("inf")


def test_a_recipe_is_read_and_its_loss_checked_without_torch():
    code = (
        "import sys; from schemas.recipe import load; load('pipelines/recipes/bmc.toml'); "
        "print([name for name in ('torch', 'transformers', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match="no recipe at"):
        load(tmp_path / "none.toml")


def test_settings_override_and_are_typed_by_their_field(tmp_path):
    path = write(
        tmp_path,
        "[model]\nname = 'a'\n[prompts]\nsource = ['x', 'y']\n[train]\nepochs = 2\n[train.dpo]\nbeta = 0.1",
    )
    recipe = load(
        path,
        [
            "model.name=123",
            "prompts.source=one.jsonl",
            "train.learning_rate=1",
            "train.dpo.beta=0.3",
            "train.tensorboard=true",
            "seed=7",
        ],
    )
    assert recipe.section("model") == Model(name="123")
    assert [item.endswith("/one.jsonl") for item in recipe.section("prompts").source] == [True]
    train = recipe.section("train")
    assert (train.learning_rate, train.epochs, train.tensorboard, train.options, recipe.seed) == (
        1.0,
        2,
        True,
        {"dpo": {"beta": 0.3}},
        7,
    )


@pytest.mark.parametrize("setting", ["train.max_steps", "=3", "train..x=3"])
def test_a_malformed_setting_is_refused(tmp_path, setting):
    with pytest.raises(UserError, match=r"expected section\.key=value"):
        load(write(tmp_path, "[train]"), [setting])


def test_sections_keep_the_order_of_the_file(tmp_path):
    assert list(load(write(tmp_path, "[train]\n[model]\n[prompts]")).sections) == [
        "train",
        "model",
        "prompts",
    ]


def test_dump_and_load_are_inverse(tmp_path):
    recipe = load(
        RECIPE, ["model.name=hub/name", 'prompts.source=["a b.jsonl", "c\\"d"]', "train.dpo.beta=0.2"]
    )
    path = tmp_path / "again.toml"
    path.write_bytes(dump(recipe))
    assert load(path) == recipe


def test_files_named_in_a_recipe_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.sql").touch()
    (tmp_path / "hh").touch()  # a file of this name here does not hide the format that ships
    monkeypatch.chdir(tmp_path)
    recipe = load(RECIPE, ["prompts.format=mine.sql", "pairs.choose=mine.sql", "prompts.source=data"])
    assert recipe.section("prompts").format == recipe.section("pairs").choose == str(tmp_path / "mine.sql")
    assert load(RECIPE, ["prompts.format=hh"]).section("prompts").format == "hh"


def test_a_section_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no section \[train\]"):
        load(write(tmp_path, "[model]")).section("train")


def test_defaults_are_those_of_the_page():
    assert (Prompts().format, Train().optimizer, Train().batch_size) == ("auto", "adamw", 64)


def test_a_table_may_be_set_as_a_whole(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[generate]\nn = 2\n")
    recipe = load(path, ["generate.logit_bias={42 = -100}"])
    assert recipe.sections["generate"].logit_bias == {"42": -100}
    assert recipe == load(path, ["generate.logit_bias.42=-100"])


def test_a_table_that_is_set_to_a_value_is_said_to_be_one(tmp_path):
    (tmp_path / "r.toml").write_text("[train]\n")
    with pytest.raises(UserError, match=r"'lora': it is a table, written \[train\.lora\]"):
        load(tmp_path / "r.toml", ["train.lora=true"])
    assert load(tmp_path / "r.toml", ["train.lora.r=8"]).section("train").options == {"lora": {"r": 8}}


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "pipelines" / "recipes").glob("*.toml"))
)
def test_a_recipe_that_ships_is_known_by_its_name(name, tmp_path, monkeypatch):
    path = ROOT / "pipelines" / "recipes" / f"{name}.toml"
    monkeypatch.chdir(tmp_path)  # from anywhere, as after pip install
    by_name = load(name)
    assert by_name.sections.keys() == load(path).sections.keys() and by_name.foreign == ""
    assert Path(by_name.file).samefile(path)
    (tmp_path / name).mkdir()  # a run folder of that name, say
    assert Path(load(name).file).samefile(path)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("seed = 7\n[model]\n")
    assert load(name).seed == 7  # a file of one's own comes first


def test_a_name_that_is_nearly_one_is_told():
    with pytest.raises(
        UserError, match="no recipe at dbo, and none that ships has that name: did you mean 'dpo'"
    ):
        load("dbo")
