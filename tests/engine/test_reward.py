"""[reward]: a reward model's scores are transformers' own, in whatever batch; what it cannot read is told."""

import json

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from engine.commands.precompute import precompute
from engine.models.open import open_model
from engine.models.reward import _batches
from engine.models.spec import resolve
from engine.stage import Context
from engine.stages import reward
from engine.text.dialogues import Reading
from engine.views import views
from schemas.errors import UserError
from schemas.recipe import load
from schemas.sections import Model, Reward
from schemas.store import open_store
from schemas.tables import MESSAGES
from tests.conftest import command, settings
from tests.engine.planned import planning
from tests.engine.rewards import cross_encoder, of_family, on_trunk, own_pair_scores, own_scores
from tests.schemas.models import change_json, copy_of

PROMPTS = {
    "p1": [{"role": "user", "content": "Ann has 3 pens. How many?"}],
    "p2": [
        {"role": "user", "content": "Say it"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "Why? " * 9},
    ],
    "p3": [{"role": "user", "content": "12 + 30 = ?"}],
}
TEXTS = {
    "p1": ["3", "Ann has three pens, so the answer is 3.", "No idea. " * 6],
    "p2": ["Because.", "x"],
    "p3": ["42", "42", "forty two", ""],
}


def batch(prompts=PROMPTS, texts=TEXTS) -> pa.Table:
    rows = [(prompt, f"{prompt}{n}", text) for prompt in prompts for n, text in enumerate(texts[prompt])]
    return pa.table(
        {
            "prompt_id": [row[0] for row in rows],
            "response_id": [row[1] for row in rows],
            "text": [row[2] for row in rows],
            "messages": pa.array([prompts[row[0]] for row in rows], MESSAGES),
            "file": ["f"] * len(rows),
            "line": list(range(len(rows))),
            "chat": pa.nulls(len(rows), pa.string()),
            "turn": pa.nulls(len(rows), pa.string()),
        }
    )


def dialogues(rows: pa.Table) -> list[list[dict[str, str]]]:
    found = []
    for messages, text in zip(rows["messages"].to_pylist(), rows["text"].to_pylist(), strict=True):
        found.append([*messages, {"role": "assistant", "content": text}])
    return found


def planned(config: Reward):
    """The facts of a recipe with this section, and the context that its stage is given."""
    spec = reward.model_spec(config, Model())
    model = resolve(spec)
    given = planning({"reward": config}, "reward")
    given = type(given)(0, {}, {}, lambda: model, lambda: model)
    facts = reward.facts(config, given)
    opened = []

    def open_once():
        opened.append(opened[0] if opened else open_model(model, "cpu", 1, planned=facts["model"]))
        return opened[0]

    return facts, Context(seed=0, model=model, open_model=open_once)


def made(config: Reward, rows=None):
    _, context = planned(config)
    return reward.make(batch() if rows is None else rows, config, context)


def scores(config: Reward, rows=None) -> list[float | None]:
    return made(config, rows).tables["scores"]["score"].to_pylist()


@pytest.fixture(scope="module")
def rater(model_path, tmp_path_factory):
    return on_trunk(model_path, tmp_path_factory.mktemp("rewards") / "llama")


@pytest.mark.parametrize("budget", [1, 70, 300, 4096])
@pytest.mark.parametrize("pad", [None, 0, 7])
def test_scores_are_those_of_transformers_in_any_batch(model_path, tmp_path, budget, pad):
    path = on_trunk(model_path, tmp_path / "rm", pad=pad)
    found = scores(Reward(model=str(path), batch_tokens=budget))
    wanted = own_scores(path, dialogues(batch()))[:, 0].tolist()
    assert found == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.1, "scores that are all alike would show nothing"


FAMILIES = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "pad_token_id": 0},
    "Mistral": {"pad_token_id": -1},
    "GPT2": {},
    "GPTNeoX": {},
    "OPT": {"word_embed_proj_dim": 32, "ffn_dim": 40},
    "ModernBert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 1},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_own_scores(model_path, tmp_path, family):
    path = of_family(family, model_path, tmp_path / "rm", **FAMILIES[family])
    found = scores(Reward(model=str(path)))
    wanted = own_scores(path, dialogues(batch()))[:, 0].tolist()
    assert found == pytest.approx(wanted, abs=1e-5)
    assert len(set(found)) > 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_digits_give_about_the_same_scores(rater, dtype):
    found = scores(Reward(model=str(rater), dtype=dtype))
    wanted = own_scores(rater, dialogues(batch()))[:, 0].tolist()
    assert found == pytest.approx(wanted, abs=0.05 * max(map(abs, wanted)))


def test_what_is_read_is_the_template_s_whole_dialogue(rater):
    config = Reward(model=str(rater))
    _, context = planned(config)
    reader = reward.open_reader(config, context.model)
    rows = batch()
    read = reader.read(rows["messages"].to_pylist(), rows["text"].to_pylist())
    tokenizer = AutoTokenizer.from_pretrained(rater)
    for reading, dialogue in zip(read, dialogues(rows), strict=True):
        assert list(reading.ids) == tokenizer.apply_chat_template(dialogue, return_dict=False)


def test_a_special_token_that_a_user_typed_is_text(rater):
    tokenizer = AutoTokenizer.from_pretrained(rater)
    end = tokenizer.eos_token
    prompts = {"p1": [{"role": "user", "content": f"What is {end} ?"}]}
    config = Reward(model=str(rater))
    _, context = planned(config)
    reader = reward.open_reader(config, context.model)
    rows = batch(prompts, {"p1": [f"a{end}b"]})
    (reading,) = reader.read(rows["messages"].to_pylist(), rows["text"].to_pylist())
    (bare,) = reader.read([[{"role": "user", "content": "What is  ?"}]], ["ab"])
    special = tokenizer.eos_token_id
    assert reading.ids.count(special) == bare.ids.count(special)
    assert len(reading.ids) > len(bare.ids)
    assert scores(config, rows)[0] is not None


def test_equal_texts_have_equal_scores(rater):
    found = scores(Reward(model=str(rater), batch_tokens=60))
    assert found[5] == found[6], "the same prompt and text twice"


def test_a_batch_is_bounded_and_holds_every_text():
    texts = [Reading(tuple(range(length))) for length in (9, 2, 30, 2, 5, 14, 3)]
    for budget in (1, 10, 31, 1000):
        found = _batches(texts, budget, pads=True)
        lengths = [len(text.ids) for one in found for text in one]
        assert lengths == sorted(len(text.ids) for text in texts)
        for one in found:
            width = max(len(text.ids) for text in one)
            assert len(one) == 1 or len(one) * width <= budget
    for one in _batches(texts, 1000, pads=False):
        assert len({len(text.ids) for text in one}) == 1


def test_a_model_that_padding_disturbs_is_run_by_length(rater, monkeypatch, caplog):
    """A head that takes the last column, whatever stands there, as one that knows of no padding does."""
    from transformers import LlamaForSequenceClassification

    def last_column(self, input_ids, attention_mask=None, **more):
        hidden = self.model(input_ids).last_hidden_state
        logits = self.score(hidden)[:, -1]
        return type("Output", (), {"logits": logits})

    wanted = own_scores(rater, dialogues(batch()))[:, 0].tolist()
    monkeypatch.setattr(LlamaForSequenceClassification, "forward", last_column)
    with caplog.at_level("WARNING"):
        found = scores(Reward(model=str(rater)))
    assert found == pytest.approx(wanted, abs=1e-5)
    assert "texts of one length are run together" in caplog.text


@pytest.mark.parametrize("family", ["Bert", "Electra", "DebertaV2", "Roberta"])
def test_a_cross_encoder_reads_two_texts(tmp_path, family):
    path = cross_encoder(tmp_path / "rm", family)
    prompts = {name: messages for name, messages in PROMPTS.items() if name != "p2"}
    rows = batch(prompts)
    found = scores(Reward(model=str(path), input="pair"), rows)
    pairs = []
    for messages, text in zip(rows["messages"].to_pylist(), rows["text"].to_pylist(), strict=True):
        pairs.append((messages[0]["content"], text))
    assert found == pytest.approx(own_pair_scores(path, pairs)[:, 0].tolist(), abs=1e-5)


def test_a_pair_is_one_question_and_typed_markers_are_text(tmp_path):
    path = cross_encoder(tmp_path / "rm")
    config = Reward(model=str(path), input="pair")
    result = made(config)
    rejects = result.tables["rejects"].to_pylist()
    assert [row["response_id"] for row in rejects] == ["p20", "p21"]
    assert "one message of the user, and this one is user, assistant, user" in rejects[0]["detail"]
    assert result.tables["scores"]["score"].null_count == 2
    _, context = planned(config)
    reader = reward.open_reader(config, context.model)
    (reading,) = reader.read([[{"role": "user", "content": "what is [SEP] ?"}]], ["it is [CLS]"])
    assert reading.ids.count(3) == 2 and reading.ids.count(2) == 1
    assert reading.types is not None and set(reading.types) == {0, 1}


def test_an_encoder_with_a_template_finds_its_first_token(tmp_path):
    path = cross_encoder(tmp_path / "rm")
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}")
    config = Reward(model=str(path), chat_template=str(template))
    _, context = planned(config)
    (reading,) = reward.open_reader(config, context.model).read([PROMPTS["p3"]], ["42"])
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert list(reading.ids) == tokenizer("user : 12 + 30 = ? assistant : 42 ").input_ids


def test_what_cannot_be_read_is_a_null_score_and_a_reject(rater):
    most = 40
    result = made(Reward(model=str(rater), max_length=most))
    rows = batch()
    tokenizer = AutoTokenizer.from_pretrained(rater)
    lengths = [len(tokenizer.apply_chat_template(one, return_dict=False)) for one in dialogues(rows)]
    found = result.tables["scores"]["score"].to_pylist()
    assert [score is None for score in found] == [length > most for length in lengths]
    assert any(length > most for length in lengths) and any(length <= most for length in lengths)
    rejects = result.tables["rejects"].to_pylist()
    assert {row["reason"] for row in rejects} == {"too_long"}
    assert result.counts["scored"] + result.counts["unscored"] == len(rows)
    assert f"given {most} at most" in rejects[0]["detail"] and rejects[0]["stage"] == "reward"


def test_a_template_s_refusal_is_a_reject(rater, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% if messages|length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
        "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    )
    result = made(Reward(model=str(rater), chat_template=str(template)))
    rejects = result.tables["rejects"].to_pylist()
    assert [row["response_id"] for row in rejects] == ["p20", "p21"]
    assert "one question only" in rejects[0]["detail"]
    template.write_text("{{ messages[-1].content }}")
    result = made(Reward(model=str(rater), chat_template=str(template)))
    assert {row["reason"] for row in result.tables["rejects"].to_pylist()} == {"prompt_lost"}


WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_dialogue_with_tools_and_calls_is_scored_with_them(rater, tmp_path):
    """As the reward model's own template renders it; one that drops them makes a reject."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    rows = batch()
    asked = {"messages": rows["messages"][0].as_py(), "tools": tools}
    for name, value in (("chat", asked), ("turn", turn)):
        column = pa.array([json.dumps(value), *[None] * (len(rows) - 1)])
        rows = rows.set_column(rows.column_names.index(name), name, column)
    refused = made(Reward(model=str(rater)), rows).tables
    assert refused["scores"]["score"].null_count == 1
    assert refused["rejects"]["reason"].to_pylist() == ["prompt_lost"]

    template = tmp_path / "tools.jinja"
    template.write_text(WITH_TOOLS)
    (found, *_) = scores(Reward(model=str(rater), chat_template=str(template)), rows)
    tokenizer = AutoTokenizer.from_pretrained(rater)
    rendered = tokenizer.apply_chat_template(
        [*asked["messages"], turn], tools=tools, chat_template=WITH_TOOLS, tokenize=False
    )
    model = AutoModelForSequenceClassification.from_pretrained(rater, dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = torch.tensor([tokenizer(rendered, add_special_tokens=False).input_ids])
        assert found == pytest.approx(model(ids).logits[0, 0].item(), abs=1e-5)


@pytest.mark.parametrize("labels", [2, 3])
def test_of_several_logits_one_is_named(model_path, tmp_path, labels):
    path = on_trunk(model_path, tmp_path / "rm", labels=labels)
    names = ["bad", "good", "odd"][:labels]
    change_json(path / "config.json", id2label=dict(enumerate(names)), label2id=None)
    with pytest.raises(
        UserError, match=f"gives {labels} logits a text .0 bad, 1 good.*which one is the score"
    ):
        planned(Reward(model=str(path)))
    wanted = own_scores(path, dialogues(batch()))
    for label in ("good", "1"):
        found = scores(Reward(model=str(path), label=label))
        assert found == pytest.approx(wanted[:, 1].tolist(), abs=1e-5)
    one, _ = planned(Reward(model=str(path), label="good"))
    same, _ = planned(Reward(model=str(path), label="1"))
    other, _ = planned(Reward(model=str(path), label="bad"))
    assert one == same != other
    for label in ("gut", "7", "-1"):
        with pytest.raises(UserError, match=f"label = '{label}'.*no such logit, only 0 bad, 1 good"):
            planned(Reward(model=str(path), label=label))


def test_facts_are_what_scores_depend_on(rater, model_path, tmp_path):
    """And nothing else: not the bound on memory, not the folder's name."""
    before, _ = planned(Reward(model=str(rater)))
    assert planned(Reward(model=str(copy_of(rater, tmp_path / "copy")), batch_tokens=99))[0] == before
    other = on_trunk(model_path, tmp_path / "other", seed=5)
    assert planned(Reward(model=str(other)))[0]["model"]["weights"] != before["model"]["weights"]
    assert planned(Reward(model=str(rater), dtype="bfloat16"))[0] != before
    assert planned(Reward(model=str(rater), chat_template="plain"))[0] != before
    assert planned(Reward(model=str(rater), max_length=30))[0] != before
    assert planned(Reward(model=str(rater), input="pair"))[0] != before
    json.dumps(before)


def test_weights_that_give_nan_are_refused(rater, tmp_path):
    path = copy_of(rater, tmp_path / "rm")
    tensors = load_file(path / "model.safetensors")
    tensors["score.weight"][0, 3] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"gives scores that are not finite"):
        scores(Reward(model=str(path)))


def test_weights_that_change_after_planning_are_refused(rater, tmp_path):
    path = copy_of(rater, tmp_path / "rm")
    config = Reward(model=str(path))
    _, context = planned(config)
    tensors = {name: value * 1.5 for name, value in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights of the model in .* changed while the run was going"):
        reward.make(batch(), config, context)


def test_recipe_errors(rater, model_path):
    with pytest.raises(UserError, match=r"\[reward\] names no model"):
        reward.model_spec(Reward(), Model())
    with pytest.raises(UserError, match=r'input = "pair" uses no chat template'):
        Reward(model="a", input="pair", chat_template="plain")
    with pytest.raises(UserError, match=r"\[reward.template_arguments\] messages: the engine itself"):
        Reward(model="a", template_arguments={"messages": 1})
    with pytest.raises(UserError, match="max_length = 99999, but the reward model was made for"):
        planned(Reward(model=str(rater), max_length=99999))
    unknown = Reward(model=str(rater), template_arguments={"enable_thinking": False})
    _, context = planned(unknown)
    with pytest.raises(UserError, match=r"\[reward.template_arguments\] enable_thinking: the chat template"):
        reward.make(batch(), unknown, context)


RECIPE = """
[model]
[prompts]
shards = 3
[given]
[generate]
n = 2
max_tokens = 12
[reward]
[logprobs]
[pairs]
choose = "best_vs_worst"
scorer = "reward"
scored_by = ["reward"]
test_share = 0.2
unfinished = "keep"
[train]
loss = "score_margin"
batch_size = 8
max_steps = 2
learning_rate = 1e-3
save_every = 0
[train.score_margin]
scorer = "reward"
"""


@pytest.mark.long
def test_from_prompts_to_a_training_step(rater, model_path, tmp_path, capsys):
    """Twice in one folder: the second run finds all done, another reward model says what changed."""
    rows = [{"prompt": f"How many are {n} and {n + 1}?"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(RECIPE.replace("[given]\n", ""))
    words = settings(prompts__source=tmp_path / "rows.jsonl", model__name=model_path, reward__model=rater)

    def said(words, workers=1):
        precompute(tmp_path / "run", load(tmp_path / "r.toml", words[1::2]), workers)
        return capsys.readouterr().out

    assert f"reward: {rater} on transformers, float32" in said(words, workers=2)
    pairs = views(open_store(tmp_path / "run"))["pairs"].to_table().to_pylist()
    assert len(pairs) > 12
    for pair in pairs:
        chosen = dict(pair["chosen_scores"])["reward"]
        assert pair["chosen_score"] == chosen > dict(pair["rejected_scores"])["reward"]
    command("trainer", "run", tmp_path / "r.toml", "-o", tmp_path / "run")
    assert "nothing to do" in said(words)
    other = on_trunk(model_path, tmp_path / "other", seed=9)
    again = said([*words, *settings(reward__model=other)])
    assert "not reward-" in again and "weights" in again
