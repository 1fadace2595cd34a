"""Every recipe that ships is whole.

It has its paper's settings (methods §1 to §5), and does the job from raw rows through one step of each loss
that it names.
"""

import json
import re
import shlex

import click
import pytest

from pipelines.sandbox import world
from tests.conftest import ROOT, command, preferences, settings
from trainer.losses import choose

FOLDER = ROOT / "pipelines" / "recipes"
PAPERS = {
    "dpo": {"dpo": {"beta": 0.1}},
    "ipo": {"ipo": {"beta": 0.1, "reduction": "mean"}},
    "sr_dpo": {
        "sr_dpo": {"beta": 0.1, "lam": 0.3, "delta": "live"},
        "sr_ipo": {"beta": 0.1, "scaling": "printed"},
        "score_margin": {"scorer": "prompt_gain"},
        "dpo": {"beta": 0.1},
    },
    "sr_ipo": {
        "sr_ipo": {"beta": 0.1, "lam": 0.3, "scaling": "printed", "delta": "live"},
        "ipo": {"beta": 0.1, "reduction": "sum"},
    },
    "rpo": {"rpo": {"beta": 0.01, "eta": 0.005, "reduction": "sum", "y0": "chosen"}, "dpo": {"beta": 0.01}},
    "bmc": {"bmc": {"beta": 0.05, "delta": 2.5, "weighting": "paper"}, "ipo_bmc": {}},
}


WITHOUT_A_PAPER = ("on_policy", "bridging", "judge", "logprobs")
SANDBOX_MODEL = ROOT / "pipelines" / "sandbox" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def test_every_recipe_is_known_here():
    assert set(NAMES) == {*PAPERS, *WITHOUT_A_PAPER, "sandbox"}


@pytest.mark.parametrize("name", NAMES)
def test_its_head_says_what_it_is_for_and_its_commands_by_bare_name(name):
    text = (FOLDER / f"{name}.toml").read_text()
    head = text[: text.index("seed = 0")]
    first = head.splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")
    assert "# For: " in head and "# Needs: " in head
    assert max(map(len, text.splitlines())) <= 110
    started = re.findall(r"#   (?:engine precompute|trainer run|python -m pipelines.run) +(\S+)", head)
    assert started and set(started) == {name}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_its_head_is_one(name):
    """Commands and options that there are: their words are parsed, and nothing is run."""
    from engine.cli import main as engine
    from trainer.cli import main as trainer

    programs = {"engine": engine, "trainer": trainer}
    for line in (FOLDER / f"{name}.toml").read_text().splitlines():
        found = re.match(r"#   (engine|trainer) +(\w+) +(.*?)(?:  +.*)?$", line)
        if not found:
            continue
        first, rest = found[2], shlex.split(found[3])
        context = click.Context(programs[found[1]])
        command = programs[found[1]].get_command(context, first)
        command.make_context(first, rest)


@pytest.mark.parametrize("name", PAPERS)
def test_it_runs_from_raw_rows_to_a_step_of_each_loss(name, model_path, tmp_path, capsys):
    from engine.commands.precompute import precompute
    from schemas.recipe import Recipe, load
    from trainer.train import train

    alone = name == "bmc"
    rows = world.prompts(4, 6) if alone else preferences(4, 6)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = SANDBOX_MODEL if alone else model_path
    words = [
        f"prompts.source={tmp_path / 'rows.jsonl'}",
        f"model.name={model}",
        "prompts.shards=1",
        "logprobs.max_length=0",
        "pairs.test_share=0",
        "train.max_steps=1",
    ]
    words += ["generate.n=2", "generate.max_tokens=60", "rewrite.max_tokens=60"] if alone else []
    recipe = load(FOLDER / f"{name}.toml", words)
    assert recipe.section("train").loss == next(iter(PAPERS[name]))
    precompute(tmp_path / "run", recipe, 1)
    for loss, keys in PAPERS[name].items():
        given = load(FOLDER / f"{name}.toml", [*words, f"train.loss={loss}"])
        objective = choose(given.section("train"))
        assert {key: getattr(objective.config, key) for key in keys} == keys
        train(tmp_path / "run", Recipe(given.sections, given.seed))
    assert capsys.readouterr().out.count("step 0: loss") == len(PAPERS[name])


def test_sr_dpos_is_the_papers():
    from schemas.recipe import load

    recipe = load(FOLDER / "sr_dpo.toml", [])
    train, logprobs = recipe.section("train"), recipe.section("logprobs")
    assert (train.learning_rate, train.optimizer, train.batch_size, logprobs.max_length) == (
        5e-7,
        "rmsprop",
        64,
        512,
    )
    assert logprobs.contexts == ("plain", "quality")


@pytest.fixture
def given(tmp_path):
    """Pairs of a right and a wrong solution, and the tiny model, which can rate and rewrite, as settings."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in world.pairs(4, 6)))
    return settings(
        prompts__source=tmp_path / "rows.jsonl", prompts__shards=1, model__name=SANDBOX_MODEL
    ), tmp_path


def rows_of(run, query: str) -> list[dict]:
    said = command("engine", "sql", run, query, "--format", "json").stdout
    return [json.loads(line) for line in said.splitlines()]


def test_judge_makes_scores_and_nothing_else(given):
    words, folder = given
    run = folder / "run"
    command("engine", "precompute", "judge", "-o", run, *words)
    (row,) = rows_of(run, "select count(*) as n, count(distinct response_id) as responses from scores "
                          "where scorer = 'rating'")  # fmt: skip
    assert row == {"n": 12, "responses": 12}
    made = {path.name.split("-")[0] for path in run.glob("*-*/")}
    assert made == {"prompts", "given", "judge"}


def test_bridging_makes_pairs_with_masks_of_what_was_rewritten(given):
    words, folder = given
    run = folder / "run"
    command(
        "engine", "precompute", "bridging", "-o", run, *words, "--set", "rewrite.max_tokens=60",
        "--set", "rewrite.prompt=rewrite_maths",
    )  # fmt: skip
    pairs = rows_of(run, "select source, chosen_ids, chosen_edit_mask, rejected_edit_mask from pairs")
    assert len(pairs) == 6 and {pair["source"] for pair in pairs} <= {"rewritten", "fallback"}
    for pair in pairs:
        assert len(pair["chosen_edit_mask"]) == len(pair["chosen_ids"])
        assert any(pair["chosen_edit_mask"]) or any(pair["rejected_edit_mask"])
    assert not list(run.glob("train-*"))


def test_logprobs_ends_in_what_trl_reads(given):
    datasets = pytest.importorskip("datasets")
    words, folder = given
    command("engine", "precompute", "logprobs", "-o", folder / "run", *words)
    command("engine", "export", folder / "run", "--to", "trl", "-o", folder / "exported")
    (made,) = [path.parent for path in (folder / "exported").rglob("dataset_dict.json")]
    rows = datasets.load_from_disk(str(made))["train"]
    assert len(rows) and {"chosen_ids", "ref_chosen_logps"} <= set(rows.column_names)


def test_on_policy_goes_on_with_the_last_rounds_policy(tmp_path):
    from pipelines.run import rounds
    from schemas.identity import weights_digest
    from schemas.recipe import load

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in world.prompts(4, 6)))
    words = [
        f"prompts.source={tmp_path / 'rows.jsonl'}",
        f"model.name={SANDBOX_MODEL}",
        "prompts.shards=1",
        "generate.n=4",
        "generate.max_tokens=60",
        "pairs.test_share=0",
        "train.max_steps=1",
        "train.learning_rate=1e-4",
        "rounds.n=2",
    ]
    policies = rounds(str(tmp_path / "rounds"), load("on_policy", words), words)
    digests = {weights_digest(path) for path in (SANDBOX_MODEL, *policies)}
    assert len(digests) == 3
    assert load(tmp_path / "rounds" / "round-2" / "recipe.toml").section("model").name == str(policies[0])


def test_paths_of_a_recipe_that_ships_are_in_its_package(tmp_path, monkeypatch):
    from schemas.recipe import load

    monkeypatch.chdir(tmp_path)
    assert load("sandbox").section("model").name == str(SANDBOX_MODEL)
    assert load("sandbox").section("prompts").source == (str(tmp_path / "runs/sandbox/prompts.jsonl"),)
    typed = load("sandbox", ["model.name=pipelines/sandbox/model"])
    assert typed.section("model").name == "pipelines/sandbox/model", "what a user types begins where they are"
    copied = tmp_path / "mine.toml"
    copied.write_text((FOLDER / "sandbox.toml").read_text())
    assert load(copied).section("model").name == "pipelines/sandbox/model"
