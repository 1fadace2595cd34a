"""`engine init`: the recipe it writes loads, passes the plan and runs; what cannot work is refused."""

import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.init import compose, memory
from engine.init.data_look import look_at as look_at_data
from engine.init.judges import judge_of
from engine.init.methods import METHODS, PAPERS
from engine.init.model_look import ModelLook, look_at
from engine.init.toml_text import comment, toml_value, with_value
from pipelines.sandbox import world
from schemas.recipe import load, load_text
from tests.conftest import ROOT, command, preferences
from tests.engine.rewards import on_trunk
from tests.reliability.test_screen import SEQUENCES, is_clean
from tests.schemas.models import copy_of

GIB = 1 << 30
SANDBOX_MODEL = ROOT / "pipelines" / "sandbox" / "model"


def written(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a file of pairs and one of prompts."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "pairs.jsonl", preferences(4, 12))
    written(tmp_path / "prompts.jsonl", world.prompts(4, 12))
    return tmp_path


def init(*words, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["init", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def keys_without_comment(text: str) -> list[str]:
    """Keys with no comment behind or above them."""
    bare: list[str] = []
    above = ""
    for line in text.splitlines():
        key = re.match(r"(\w+) = ", line)
        is_below_prose = above.startswith("#") and not re.match(r"# (\w+ = |\[)", above)
        if key and key[1] != "seed" and " # " not in line and not is_below_prose:
            bare.append(line)
        above = line
    return bare


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "pipelines" / "recipes").glob("*.toml")])
def test_every_key_of_a_recipe_that_ships_has_a_comment(name):
    if name != "sandbox":
        assert not keys_without_comment((ROOT / "pipelines" / "recipes" / f"{name}.toml").read_text())


def test_the_methods_are_the_trainers_losses():
    from trainer.losses import NAMES

    assert set(METHODS) == {*NAMES} - {"score_margin"}


@pytest.fixture(scope="module")
def looks(model_path, tmp_path_factory):
    """What is found of a file of pairs, of one of prompts, and of the model."""
    folder = tmp_path_factory.mktemp("looks")
    given = written(folder / "pairs.jsonl", preferences(4, 12))
    prompts = written(folder / "prompts.jsonl", world.prompts(4, 12))
    data = {
        "given": (given, look_at_data(str(given), {})),
        "prompts": (prompts, look_at_data(str(prompts), {})),
    }
    return data, look_at(str(model_path))


@pytest.mark.parametrize("start", compose.STARTS)
@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_of_each_method_loads(method, start, looks):
    """From pairs and from prompts alone; each key has a comment, and the sections are those it needs."""
    data, model = looks
    file, found = data[start]
    judge = judge_of("self", "") if start == "prompts" else None
    fit = memory.fit(model, memory.Asked(), memory.Machine(GIB, 0))
    wish = compose.Wish(str(file), found, model, METHODS[method], start, judge, fit, {}, ("trainer run x",))
    text = compose.text_of(wish)
    recipe = load_text(text.encode(), "recipe.toml")
    assert not keys_without_comment(text)
    assert all(
        len(line) <= 110 for line in text.splitlines() if str(file) not in line and model.name not in line
    )
    assert recipe.section("train").loss == method
    assert recipe.section("prompts").source == (str(file),)
    assert ("# Rounds, each with the last one's policy:" in text) == (start == "prompts")
    made = {"given", "generate", "judge", "rewrite"} & set(recipe.sections)
    wanted = {"given"} if start == "given" else {"generate", "judge"}
    assert made == wanted | ({"rewrite"} if METHODS[method].bridges else set())
    quality = method in ("sr_dpo", "sr_ipo")
    assert recipe.section("logprobs").contexts == (("plain", "quality") if quality else ("plain",))


@pytest.mark.parametrize("start", compose.STARTS)
@pytest.mark.parametrize("method", PAPERS)
def test_the_plan_takes_it(method, start, here, model_path):
    from engine.commands.plan import planned
    from engine.planning.planner import Options

    init("--data", "pairs.jsonl", "--model", model_path, "--method", method, "--start", start)
    assert planned(None, load("recipe.toml"), Options()).stages


@pytest.mark.parametrize("method", PAPERS)
def test_its_values_are_those_of_the_papers_recipe(method, here, model_path):
    """But for the learning rate, which a tiny model wants larger."""
    init("--data", "pairs.jsonl", "--model", model_path, "--method", method, "--start", "given")
    mine, ships = load("recipe.toml").section("train"), load(method).section("train")
    assert mine.learning_rate == 1e-4
    assert (mine.optimizer, mine.batch_size, mine.schedule) == (
        ships.optimizer,
        ships.batch_size,
        ships.schedule,
    )
    if method != "bmc":  # whose values are those of a task
        assert mine.options[method] == ships.options[method]


@pytest.mark.parametrize(
    "method, start",
    [
        ("sr_ipo", "given"),
        pytest.param("rpo", "prompts", marks=pytest.mark.long),
        pytest.param("bmc", "prompts", marks=pytest.mark.long),
    ],
)
def test_the_two_commands_that_it_names_work(method, start, here):
    """Precompute and train with the tiny model, by the lines that are printed."""
    data = "pairs.jsonl" if start == "given" else "prompts.jsonl"
    small = ["--set", "prompts.shards=1", "--set", "train.max_steps=1", "--set", "pairs.test_share=0"]
    if start == "prompts":
        small += ["--set", "generate.max_tokens=60"]
    said = init("--data", data, "--model", SANDBOX_MODEL, "--method", method, *small)
    precompute, train = (line.split() for line in said.splitlines()[-2:])
    command(*precompute, cwd=here, env=environment())
    assert "step 0: loss" in command(*train, cwd=here, env=environment()).stdout


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_bridging_of_given_pairs_is_put_before_bmc(here, model_path):
    init("--data", "pairs.jsonl", "--model", model_path, "--method", "bmc", "--start", "given")
    recipe = load("recipe.toml")
    assert recipe.section("rewrite").choose == "given"
    assert recipe.section("pairs").choose == "rewritten_vs_parent"
    assert list(recipe.sections).index("rewrite") < list(recipe.sections).index("logprobs")


def test_what_is_found_is_said(here, model_path):
    rows = [
        {**row, "system": "Be brief.", "score_chosen": 5, "score_rejected": 2} for row in preferences(4, 9)
    ]
    rows.append(
        {"prompt": "x", "chosen": "", "rejected": "y", "system": "", "score_chosen": 1, "score_rejected": 0}
    )
    written(here / "rated.jsonl", rows)
    said = init("--data", "rated.jsonl", "--model", model_path)
    assert "format preference: 9 of the first 10 rows are read; they bring pairs (9 rows" in said
    assert "empty_response" in said and "scores of their responses (9), a system prompt (9)" in said
    assert "a chat template of its own; responses end with" in said
    text = Path("recipe.toml").read_text()
    assert "# Data: format preference: 9 of the first 10 rows" in text
    assert load("recipe.toml").section("prompts").format == "preference"
    init("--data", "prompts.jsonl", "--model", model_path, "-o", "prompts.toml")
    assert "generate" in load("prompts.toml").sections, "what has no pairs starts from its prompts"


def answered(count: int):
    """Rows in the form of UltraFeedback, with so many responses and without any score."""
    for row in preferences(4, 5):
        responses = [{"response": row[side]} for side in ("chosen", "rejected")]
        yield {"instruction": row["prompt"], "completions": responses[:count]}


def test_a_start_that_the_data_cannot_feed_is_refused(here, model_path):
    given = ("--model", model_path, "--start", "given")
    said = init("--data", "prompts.jsonl", *given, code=1)
    assert "it brings prompts only: take --start prompts" in said
    for count, what in ((1, "one response a prompt"), (2, "nothing says which is better")):
        written(here / "answered.jsonl", answered(count))
        assert what in init("--data", "answered.jsonl", *given, code=1)
    init("--data", "answered.jsonl", *given, "--judge", "self", "-o", "judged.toml")
    assert load("judged.toml").section("pairs").choose == "best_vs_worst"
    assert not Path("recipe.toml").exists()


def test_a_judge_chooses_among_given_responses(here, model_path):
    init("--data", "pairs.jsonl", "--model", model_path, "--start", "given", "--judge", "self")
    recipe = load("recipe.toml")
    assert list(recipe.sections) == ["model", "prompts", "given", "judge", "logprobs", "pairs", "train"]
    assert (recipe.section("pairs").choose, recipe.section("pairs").scorer) == ("best_vs_worst", "rating")


def test_every_kind_of_judge_is_written_as_its_section(here, model_path, other_model):
    reward = here / "reward"
    on_trunk(model_path, reward)
    words = ("--data", "prompts.jsonl", "--model", model_path, "--force")
    server = "http://127.0.0.1:9/v1"
    for method in ("dpo", "bmc"):
        init(*words, "--method", method, "--judge", reward)
        recipe = load("recipe.toml")
        assert recipe.section("reward").model == str(reward) and "judge" not in recipe.sections
        assert recipe.section("pairs").scorer == "reward"
        assert method == "dpo" or recipe.section("rewrite").scorer == "reward"
        init(*words, "--method", method, "--judge", server, "--judge-model", "large")
        judge = load("recipe.toml").section("judge")
        assert (judge.base_url, judge.model) == (server, "large")
    init(*words, "--judge", SANDBOX_MODEL)
    assert load("recipe.toml").section("judge").model == str(SANDBOX_MODEL)
    assert "--judge-model is missing" in init(*words, "--judge", server, code=1)
    assert "--judge names none" in init(*words, "--judge-model", "large", code=1)


def test_a_model_without_a_template_gets_the_plain_one(here, model_path):
    bare = copy_of(model_path, here / "bare")
    (bare / "chat_template.jinja").unlink()
    said = init("--data", "prompts.jsonl", "--model", bare)
    assert "no chat template" in said and "a chat model does better" in said
    assert load("recipe.toml").section("model").template == "plain"
    assert (
        "The model has no chat template: prompts are laid out by this one" in Path("recipe.toml").read_text()
    )


def test_a_name_on_the_hub_is_taken_and_nothing_is_fetched(here):
    said = init("--data", "pairs.jsonl", "--model", "nobody/nothing-of-this-name")
    assert "is not on this machine" in said
    assert load("recipe.toml").section("model").name == "nobody/nothing-of-this-name"
    assert "no model folder at ./nothing" in init(
        "--data", "pairs.jsonl", "--model", "./nothing", "--force", code=1
    )


def test_a_file_that_is_there_is_kept_unless_forced(here, model_path):
    words = ("--data", "pairs.jsonl", "--model", model_path)
    Path("recipe.toml").write_text("mine")
    said = init(*words, code=1)
    assert "recipe.toml is there already" in said and Path("recipe.toml").read_text() == "mine"
    init(*words, "--force")
    assert load("recipe.toml").section("train").loss == "dpo"
    assert "no folder" in init(*words, "-o", "not/there.toml", code=1)


@pytest.mark.parametrize("missing", ["--data", "--model"])
def test_without_a_terminal_what_is_missing_is_named(missing, here, model_path):
    words = {"--data": "pairs.jsonl", "--model": str(model_path)}
    del words[missing]
    (pair,) = words.items()
    assert f"{missing} is missing, and there is no terminal to ask on" in init(*pair, code=1)


def test_data_that_cannot_be_read_is_one_sentence(here, model_path):
    Path("empty.jsonl").write_text("")
    Path("words.jsonl").write_text("no JSON\n" * 5)
    Path("zip.jsonl").write_bytes(b"PK\x03\x04" + bytes(200))
    for name in ("empty.jsonl", "words.jsonl", "zip.jsonl", "absent.jsonl"):
        said = init("--data", name, "--model", model_path, code=1)
        assert said.startswith("error: ") and name in said and "Traceback" not in said
    assert "did you mean" in init("--data", "pairs.jsonl", "--model", model_path, "--method", "dpoo", code=1)
    assert not Path("recipe.toml").exists()


def test_settings_of_the_users_own_are_written(here, model_path):
    written(here / "asked.jsonl", ({**row, "question": row.pop("prompt")} for row in preferences(4, 5)))
    words = ("--set", "prompts.columns.prompt=question", "--set", "train.dpo.beta=0.3", "--set", "seed=7")
    init("--data", "asked.jsonl", "--model", model_path, *words, "--set", "train.sft.weight=0.1")
    recipe = load("recipe.toml")
    assert recipe.section("prompts").columns == {"prompt": "question"} and recipe.seed == 7
    assert recipe.section("train").options["dpo"]["beta"] == 0.3
    assert recipe.section("train").options["sft"]["weight"] == 0.1
    for wrong in ("x", "a=1", "train.x=1", "nope.x=1"):
        Path("recipe.toml").unlink(missing_ok=True)
        said = init("--data", "pairs.jsonl", "--model", model_path, "--set", wrong, code=1)
        assert said.count("error: ") == 1 and not Path("recipe.toml").exists()


def test_hostile_names_are_text_in_the_recipe_and_on_the_screen(here, model_path):
    """In a file's name and in a column's: no escape, mark or markup gets through, and the recipe loads."""
    names = [*SEQUENCES.values(), "<script>alert(1)</script>", '"]\n[check]\nfunction="x']
    for number, hostile in enumerate(names):
        name = f"{hostile.replace('/', '')}.jsonl"
        column = (
            "note" if "check" in hostile else f"note {hostile}"
        )  # another says it may change what is learned
        data = written(here / name, [{**row, column: 1} for row in preferences(4, 3)])
        out = here / f"{number}.toml"
        said = init("--data", data, "--model", model_path, "-o", out)
        assert is_clean(said.replace("\n", " "))
        text = out.read_text()
        assert is_clean(text.replace("\n", " "))
        recipe = load(out)
        assert recipe.section("prompts").source == (str(data),)
        assert "check" not in recipe.sections


def test_a_reason_takes_the_place_of_the_comments_that_were_there():
    text = "[a]\n# off = 1\n# Old prose\n# of two lines.\nkey = 1\nnext = 2   # its own\n"
    changed = with_value(text, "key", 3, "New.")
    assert changed == "[a]\n# off = 1\n# New.\nkey = 3\nnext = 2   # its own\n"
    assert with_value(text, "next", 5) == text.replace(
        "next = 2   # its own", "next = 5                 # its own"
    )
    assert with_value(text, "off", 4) == text.replace("# off = 1", "off = 4")


def test_the_judge_is_said_to_see_a_reference(here, model_path):
    written(here / "known.jsonl", ({**row, "reference": "It is 4."} for row in world.prompts(4, 5)))
    assert "a right answer as reference (5)" in init("--data", "known.jsonl", "--model", model_path)
    assert (
        "# Rows bring a right answer as reference: the judge is shown it." in Path("recipe.toml").read_text()
    )


def test_values_come_back_from_toml_as_they_were():
    for value in (
        'a "b" \\ c',
        "tab\tend\n",
        "\u202egpj.exe",
        "\x1b[2J\x7f\x9b",
        "漢字 שלום",
        5e-7,
        True,
        3,
        ["a", "]"],
    ):
        assert tomllib.loads(f"v = {toml_value(value)}")["v"] == value
    lines = comment("one\ntwo\r[check] \x1b[2J").splitlines()
    assert all(line.startswith("# ") for line in lines) and tomllib.loads("\n".join(lines)) == {}


@pytest.mark.parametrize(
    "parameters, free, gpus, way, fits, ranks",
    [
        (10**9, 80 * GIB, 1, memory.WHOLE, True, 1),
        (10**9, 80 * GIB, 8, memory.WHOLE, True, 1),
        (7 * 10**9, 80 * GIB, 1, memory.ADAPTER, True, 1),
        (7 * 10**9, 80 * GIB, 8, memory.WHOLE, True, 8),
        (7 * 10**9, 16 * GIB, 1, memory.ADAPTER_ON_FOUR_BITS, True, 1),
        (70 * 10**9, 24 * GIB, 1, memory.ADAPTER_ON_FOUR_BITS, False, 1),
        (10**9, 8 * GIB, 0, memory.ADAPTER, True, 1),
    ],
)
def test_what_fits_the_memory(parameters, free, gpus, way, fits, ranks):
    machine = memory.Machine(free, gpus, bfloat16=gpus > 0)
    found = memory.fit(of_size(parameters), memory.asked_of({}, "adamw", machine), machine)
    assert (found.way, found.fits, found.ranks) == (way, fits, ranks)


def of_size(parameters: int, embeddings: int = 0) -> ModelLook:
    in_layers = parameters - embeddings
    return ModelLook(
        "m", Path("m"), parameters=parameters, in_layers=in_layers, dtype="bfloat16", positions=4096
    )


@pytest.mark.parametrize(
    "settings, way, fits, words",
    [
        ({}, memory.ADAPTER, True, "rmsprop take 12 bytes each"),
        ({"train.optimizer": "adamw"}, memory.ADAPTER, True, "adamw take 16 bytes each"),
        (
            {"train.optimizer": "adamw_8bit", "train.weights": "bfloat16"},
            memory.WHOLE,
            True,
            "take 6.03 bytes each",
        ),
        (
            {"model.quantization": "nf4"},
            memory.ADAPTER_ON_FOUR_BITS,
            True,
            'model.quantization = "nf4" is set',
        ),
        ({"model.dtype": "float32"}, memory.ADAPTER_ON_FOUR_BITS, True, "embeddings and head in float32"),
        ({"model.dtype": "float32", "model.quantization": "none"}, memory.ADAPTER, False, "in float32"),
        ({"train.lora.r": 8}, memory.ADAPTER, True, "[train.lora] is set"),
    ],
)
def test_memory_is_counted_by_the_users_own_settings(settings, way, fits, words):
    """A billion parameters, for which 2.6 or 6.3 GB may be taken."""
    free = 9 * 10**9 if way == memory.WHOLE else int(3.7e9)
    machine = memory.Machine(free, 1, bfloat16=True)
    asked = memory.asked_of(settings, "rmsprop", machine)
    found = memory.fit(of_size(10**9), asked, machine)
    assert (found.way, found.fits) == (way, fits) and words in found.why[0]


def test_weights_that_the_methods_optimizer_does_not_train_are_refused(here, model_path):
    words = ("--data", "pairs.jsonl", "--model", model_path, "--set", "train.weights=bfloat16")
    assert "add --set train.optimizer=adamw" in init(*words, code=1)
    init(*words, "--set", "train.optimizer=adamw")


def test_a_length_of_the_users_own_leaves_room_for_the_prompt(here, model_path):
    words = ("--data", "prompts.jsonl", "--model", model_path, "--set", "logprobs.max_length=100")
    for method in ("dpo", "bmc"):
        init(*words, "--method", method, "--force")
        recipe = load("recipe.toml")
        assert recipe.section("generate").max_tokens == 50
        assert method == "dpo" or recipe.section("rewrite").max_tokens == 50


def test_an_adapters_own_weights_are_counted():
    model = ModelLook("m", Path("m"), parameters=10**9, in_layers=10**9, adapter_width=10**6)
    machine = memory.Machine(4 * 10**9, 1, bfloat16=True)
    for r, way in ((16, memory.ADAPTER), (128, memory.ADAPTER_ON_FOUR_BITS)):
        asked = memory.asked_of({"train.lora.r": r}, "adamw", machine)
        assert memory.fit(model, asked, machine).way == way


def test_four_bits_leave_embeddings_and_head_as_they_are(model_path):
    room = memory.Machine(2 * 10**9, 1, bfloat16=True)
    asked = memory.asked_of({}, "adamw", room)
    assert memory.fit(of_size(2 * 10**9), asked, room).fits
    assert not memory.fit(of_size(2 * 10**9, embeddings=5 * 10**8), asked, room).fits
    look = look_at(str(model_path))
    assert 0 < look.in_layers < look.parameters


def test_a_frozen_base_takes_twice_as_much_on_gpus_without_bfloat16():
    ways: dict[bool, str] = {}
    for bfloat16 in (False, True):
        machine = memory.Machine(4 * 10**9, 1, bfloat16)
        ways[bfloat16] = memory.fit(of_size(10**9), memory.asked_of({}, "adamw", machine), machine).way
    assert ways == {False: memory.ADAPTER_ON_FOUR_BITS, True: memory.ADAPTER}


def test_weights_that_only_ranks_hold_together_get_torchrun(here, monkeypatch):
    """In what is printed and in the recipe's head."""
    parameters = look_at(str(SANDBOX_MODEL)).parameters
    monkeypatch.setattr(memory, "this_machine", lambda _: memory.Machine(9 * parameters, 4))
    said = init("--data", "pairs.jsonl", "--model", SANDBOX_MODEL)
    line = "torchrun --nproc-per-node 4 -m trainer.cli run recipe.toml -o runs/recipe"
    assert said.splitlines()[-1].strip() == line and f"#   {line}\n" in Path("recipe.toml").read_text()
    assert "lora" not in load("recipe.toml").section("train").options
    said = init("--data", "pairs.jsonl", "--model", SANDBOX_MODEL, "--force", "--set", "train.parallel=ddp")
    assert "  trainer run" in said and "lora" in load("recipe.toml").section("train").options


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].bridges])
def test_samples_are_not_cut_to_fit(method, here):
    """What on_policy drops is dropped whatever the method, and a sample leaves room for its prompt."""
    init("--data", "prompts.jsonl", "--model", "nobody/nothing-of-this-name", "--method", method)
    logprobs = load("recipe.toml").section("logprobs")
    own = load(METHODS[method].recipe).section("logprobs")
    assert logprobs.too_long == load("on_policy").section("logprobs").too_long
    assert (logprobs.contexts, logprobs.max_length) == (own.contexts, own.max_length)
    longest = load("recipe.toml").section("generate").max_tokens
    assert longest <= logprobs.max_length // 2 if logprobs.max_length else longest == 1024


@pytest.mark.parametrize("start", compose.STARTS)
@pytest.mark.parametrize(
    "prompt, beta, deltas",
    [
        ("", 0.01, (1.5, 2.0)),
        ("rewrite_question", 0.05, (3.0, 3.0)),
        ("rewrite_maths", 0.05, (2.5, 2.5)),
    ],
)
def test_bmc_has_prompt_beta_and_delta_of_one_task(start, prompt, beta, deltas, here, model_path):
    words = ["--set", f"rewrite.prompt={prompt}"] if prompt else []
    for method in ("bmc", "ipo_bmc"):
        name = f"{method}.toml"
        init(
            "--data",
            "pairs.jsonl",
            "--model",
            model_path,
            "--method",
            method,
            "--start",
            start,
            "-o",
            name,
            *words,
        )
        recipe = load(name)
        options = recipe.section("train").options[method]
        assert recipe.section("rewrite").prompt.endswith(prompt or "rewrite_instruction")
        assert deltas[0] <= options["delta"] <= deltas[1]
        assert method == "ipo_bmc" or options["beta"] == beta
        assert prompt or "--set rewrite.prompt=rewrite_question" in Path(name).read_text().replace(
            "\n# ", " "
        )


def test_a_stage_that_is_set_runs_in_its_place(here, model_path):
    """Behind what makes responses, and above what takes them."""
    settings = (
        "--set",
        "generate.n=2",
        "--set",
        "train.sft.weight=1",
        "--set",
        "check.function=checks:right",
    )
    init("--data", "pairs.jsonl", "--model", model_path, "--start", "given", *settings)
    sections = list(load("recipe.toml").sections)
    assert sections == ["model", "prompts", "given", "generate", "check", "logprobs", "pairs", "train"]


def test_no_remark_contradicts_a_value_of_the_users_own(here, model_path):
    words = [
        "--set",
        "train.dpo.beta=0.3",
        "--set",
        "train.learning_rate=1e-3",
        "--set",
        "train.parallel=ddp",
    ]
    words += [
        "--set",
        "model.chat_template=mine.jinja",
        "--set",
        "judge.model=large",
        "--set",
        "train.keep=3",
    ]
    init("--data", "prompts.jsonl", "--model", model_path, *words)
    text = Path("recipe.toml").read_text()
    assert "beta = 0.3               # yours, by --set; without it: 0.1\n" in text
    assert "keep = 3                 # yours, by --set\n" in text
    for gone in ("5e-7", "Left open: parallel", "template of the model itself", "rates its own responses"):
        assert gone not in text
    assert not keys_without_comment(text)
    init("--data", "pairs.jsonl", "--model", model_path, "--force", "--set", "model.quantization=nf4")
    text = Path("recipe.toml").read_text()
    assert "they do not fit" not in text and "template of the model itself" in text
    init("--data", "pairs.jsonl", "--model", model_path, "--force", "--start", "given", "--judge", "self")
    assert "as the data gives them" not in Path("recipe.toml").read_text()


def test_a_judge_that_is_not_here_is_what_the_user_says(here, model_path):
    words = ("--data", "prompts.jsonl", "--model", model_path, "--force")
    said = init(*words, "--judge", "nobody/nothing-of-this-name")
    assert "cannot be seen from here" in said and "--judge reward:nobody/nothing-of-this-name" in said
    assert load("recipe.toml").section("judge").model == "nobody/nothing-of-this-name"
    assert "reward:nobody/nothing-of-this-name" in Path("recipe.toml").read_text()
    said = init(*words, "--judge", "reward:nobody/nothing-of-this-name")
    assert "cannot be seen" not in said
    assert load("recipe.toml").section("reward").model == "nobody/nothing-of-this-name"
    assert "no reward model" in init(*words, "--judge", f"reward:{SANDBOX_MODEL}", code=1)
    assert "expected reward:NAME" in init(*words, "--judge", "reward:", code=1)


@pytest.mark.parametrize("name", ["a\nseed = 1.toml", "a\u202eb.toml", os.fsdecode(b"a\xff.toml")])
def test_a_name_that_no_line_can_say_is_refused(name, here, model_path):
    said = init("--data", "pairs.jsonl", "--model", model_path, "-o", name, code=1)
    assert said.count("\n") == 1 and said.startswith("error: -o ") and is_clean(said.strip())
    assert sorted(path.name for path in here.iterdir()) == ["pairs.jsonl", "prompts.jsonl"]


def test_an_adapters_learning_rate_is_that_of_the_docs(here):
    lora = (ROOT / "pipelines" / "docs" / "training.md").read_text().split("## LoRA")[1]
    of_docs = float(re.search(r"learning_rate = (\S+)", lora)[1])
    init("--data", "pairs.jsonl", "--model", "nobody/nothing-of-this-name", "--set", "train.lora.r=8")
    assert load("recipe.toml").section("train").learning_rate == of_docs


def test_a_model_that_does_not_fit_is_trained_by_an_adapter(here, model_path, monkeypatch):
    """The memory of the machine is made so small that the whole model does not fit, then not even frozen."""
    parameters = look_at(str(SANDBOX_MODEL)).parameters
    for free, quantization in ((8 * parameters, "none"), (2 * parameters, "nf4")):
        monkeypatch.setattr(memory, "this_machine", lambda _, free=free: memory.Machine(free, 0))
        said = init(
            "--data", "pairs.jsonl", "--model", SANDBOX_MODEL, "--force", "--set", "train.max_steps=1"
        )
        recipe = load("recipe.toml")
        assert recipe.section("train").options["lora"]["r"] == 16, said
        assert recipe.section("model").quantization == quantization


def test_it_asks_on_a_terminal_and_ctrl_c_changes_nothing(here, model_path):
    pexpect = pytest.importorskip("pexpect")
    start = [sys.executable, ["-m", "engine.cli", "init"]]
    with_ends = {"cwd": str(here), "env": environment(), "encoding": "utf-8", "timeout": 60}
    child = pexpect.spawn(*start, **with_ends)
    child.expect("Your data")
    child.sendintr()
    child.expect("nothing was changed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and not (here / "recipe.toml").exists()
    child = pexpect.spawn(*start, **with_ends)
    for question, answer in (
        ("Your data", "pairs.jsonl"),
        ("Your model", str(model_path)),
        ("Method", "ipo"),
        ("Start", ""),
    ):
        child.expect(question)
        child.sendline(answer)
    child.expect("trainer run recipe.toml")
    child.expect(pexpect.EOF)
    child.close()
    recipe = load(here / "recipe.toml")
    assert child.exitstatus == 0
    assert recipe.section("train").loss == "ipo" and "given" in recipe.sections


def test_the_list_names_every_recipe_with_what_it_is():
    said = init("--list")
    names = sorted(path.stem for path in (ROOT / "pipelines" / "recipes").glob("*.toml"))
    assert [line.split()[0] for line in said.splitlines()] == names
    assert all(len(line.split(maxsplit=1)[1]) > 30 for line in said.splitlines())
