"""Tools, tool calls and thoughts: the ids that are trained are those that the template renders of them."""

import copy
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.formats import Format
from engine.raw import Row, rows
from engine.text import TemplateError, Text
from engine.text.chat import stored_chat, stored_response
from pipelines.sandbox.make import new_model
from schemas.errors import UserError
from schemas.extensions import included
from tests.conftest import command, settings

# Calls between XML marks, thoughts before them; earlier thoughts are dropped.
HERMES = """
{%- if tools %}<|user|>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|end|>{% endif -%}
{%- set ns = namespace(last=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
<|user|><tool_response>{{ m.content }}</tool_response><|end|>
{%- else -%}
<|{{ m.role }}|>
{%- if m.reasoning_content and loop.index0 > ns.last %}<think>{{ m.reasoning_content }}</think>{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] %}
{%- set call = call.function if call.function else call %}
<tool_call>{"name": "{{ call.name }}", "arguments": {% if call.arguments is string %}{{ call.arguments }}
{%- else %}{{ call.arguments | tojson }}{% endif %}}</tool_call>{% endfor -%}
<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""
# One call a turn and no text beside it; tools in the first user's turn; results as JSON strings.
JSON_FUNCTIONS = """
{%- for m in messages -%}
{%- if m.tool_calls -%}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once') }}{% endif -%}
{%- set call = m.tool_calls[0].function -%}
<|assistant|>{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|end|>
{%- elif m.role == 'tool' -%}
<|user|>ipython: {{ m.content | tojson }}<|end|>
{%- else -%}
<|{{ m.role }}|>{% if loop.first and tools %}{{ tools | tojson(indent=2) }} {% endif -%}
{{ m.content | trim }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""
# Ids of nine letters are asked for, tools stand before the last user's turn, nothing marks the assistant.
LISTS = """
{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{%- if tools and m == users[-1] %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls -%}
[TOOL_CALLS][{% for call in m.tool_calls %}{{ call.function | tojson }}
{%- if not call.id is defined or call.id | length != 9 -%}
{{ raise_exception('ids must have 9 letters') }}{% endif -%}
{{ call.id }}{{ ', ' if not loop.last }}{% endfor %}]<|end|>
{%- elif m.role == 'tool' -%}
[TOOL_RESULTS]{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- else -%}
{{ m.content }}<|end|>
{%- endif -%}
{%- endfor -%}
"""
TEMPLATES = {"hermes": HERMES, "json functions": JSON_FUNCTIONS, "lists": LISTS}


def tool(name="count", **properties):
    kinds = {key: {"type": kind} for key, kind in properties.items()}
    parameters = {"type": "object", "properties": kinds}
    return {
        "type": "function",
        "function": {"name": name, "description": f"what {name} does", "parameters": parameters},
    }


def call(name="count", id="abcdefghi", **arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def says(content, role="assistant", **more):
    return {"role": role, "content": content, **more}


TOOLS = [tool(shelf="string", floor="integer"), tool("weigh", item="string")]
ASKED = [says("How many books on shelf B?", "user")]
RESULT = says("21", "tool", tool_call_id="abcdefghi", name="count")
CALLED = [*ASKED, says("", tool_calls=[call(shelf="B", floor=2)]), RESULT]
ROWS = {
    "answers to a result": {"prompt": CALLED, "chosen": [says("There are 21.")], "rejected": [says("None.")]},
    "a call as the answer": {
        "prompt": ASKED,
        "chosen": [says("", tool_calls=[call(shelf="B", floor=2)])],
        "rejected": [says("", tool_calls=[call("weigh", item="B")])],
    },
    "a second call": {
        "prompt": [*CALLED, says("21."), says("And on C?", "user")],
        "chosen": [says("", tool_calls=[call(shelf="C", floor=0)])],
        "rejected": [says("Also 21.")],
    },
}
THINKS = {
    "prompt": CALLED,
    "chosen": [says("There are 21.", reasoning_content="the tool says 21")],
    "rejected": [says("", reasoning_content="once more", tool_calls=[call(shelf="A", floor=1)])],
}


@pytest.fixture(scope="module", params=["words and digits", "byte-level"])
def folder(request, tmp_path_factory, _byte_tokenizer):
    """Two tokenizers that have the marks of the templates above as special tokens."""
    tmp_path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = new_model(0)[0] if request.param == "words and digits" else copy.deepcopy(_byte_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "[TOOL_CALLS]"])
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def read(row, name="preference", ignore=()):
    (reading,) = Format(included("sql", name, ".sql"), ignore).read([Row("f", 1, json.dumps(row))])
    return reading


def ids_of(text, reading):
    """The ids of a reading's prompt and of its responses, from what is stored of them."""
    prompt = stored_chat(reading.messages, reading.chat)
    responses = [stored_response(one["text"], one.get("turn")) for one in reading.responses]
    return text.prompts([prompt])[0], text.responses([prompt], [responses])[0]


def rendered(text, messages, tools):
    return text.tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_ids_are_those_of_the_template(folder, template, row):
    text = Text(folder, TEMPLATES[template])
    row = ROWS[row]
    reading = read(row | {"tools": TOOLS})
    assert reading.reason is None, reading.detail
    prompt, responses = ids_of(text, reading)
    for side, ids in zip(("chosen", "rejected"), responses, strict=True):
        assert not isinstance(ids, TemplateError), ids
        assert prompt + ids == rendered(text, row["prompt"] + row[side], TOOLS)
        assert ids[-1] == text.end_id


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_reach_the_template_under_any_name(folder, key):
    text = Text(folder, HERMES)
    row = json.loads(json.dumps(THINKS).replace("reasoning_content", key))
    prompt, responses = ids_of(text, read(row | {"tools": TOOLS}))
    for side, ids in zip(("chosen", "rejected"), responses, strict=True):
        assert prompt + ids == rendered(text, THINKS["prompt"] + THINKS[side], TOOLS)


def test_a_template_with_its_own_word_for_thoughts(folder):
    text = Text(folder, HERMES.replace("m.reasoning_content", "m.thinking"))
    prompt, (ids, _) = ids_of(text, read(THINKS | {"tools": TOOLS}))
    own = says("There are 21.", thinking="the tool says 21")
    assert prompt + ids == rendered(text, [*CALLED, own], TOOLS)


@pytest.mark.parametrize("template", TEMPLATES)
def test_however_calls_and_tools_are_written(folder, template):
    """Arguments as text, tools as text, a content of null or none, a call without its `function`."""
    text = Text(folder, TEMPLATES[template])
    plain = ROWS["a call as the answer"] | {"tools": TOOLS}
    expected = ids_of(text, read(plain))
    as_text = json.loads(json.dumps(plain))
    for side in ("chosen", "rejected"):
        (turn,) = as_text[side]
        turn["content"] = None
        function = turn["tool_calls"][0]["function"]
        function["arguments"] = json.dumps(function["arguments"])
    assert ids_of(text, read(as_text | {"tools": json.dumps(TOOLS)})) == expected
    bare = json.loads(json.dumps(as_text))
    for side in ("chosen", "rejected"):
        (turn,) = bare[side]
        del turn["content"]
        (one,) = turn["tool_calls"]
        turn["tool_calls"] = [{"id": one["id"], **one["function"]}]
    assert ids_of(text, read(bare)) == expected


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_columnar_file_gives_the_same_ids(folder, template, tmp_path):
    """Parquet puts null where a turn, a call or a tool lacks a key that another row has."""
    text = Text(folder, TEMPLATES[template])
    given = [row | {"tools": TOOLS} for row in ROWS.values()]
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, given)))
    ids = []
    for name in ("x.parquet", "x.jsonl"):
        readings = Format(included("sql", "preference", ".sql")).read(
            list(rows({name: tmp_path / name}, 10**6))
        )
        ids.append([ids_of(text, reading) for reading in readings])
        assert all(reading.reason is None for reading in readings)
    assert ids[0] == ids[1]


def test_a_null_that_a_row_means_stays(folder):
    text = Text(folder, HERMES)
    row = ROWS["a call as the answer"] | {"chosen": [says("", tool_calls=[call(shelf=None)])], "tools": TOOLS}
    _, (ids, _) = ids_of(text, read(row))
    assert '{"shelf": null}' in text.tokenizer.decode(ids)


@pytest.mark.parametrize("as_string", ["{{ call.arguments }}", "{{ '' + call.arguments }}"])
def test_a_template_that_needs_arguments_as_text_gets_text(folder, as_string):
    """Written as they are, an object would be written as Python does, or fail."""
    begin, rest = HERMES.split("{% if call.arguments is string %}")
    text = Text(folder, begin + as_string + rest.split("{% endif %}", 1)[1])
    _, (ids, _) = ids_of(text, read(ROWS["a call as the answer"] | {"tools": TOOLS}))
    assert '"arguments": {"shelf": "B", "floor": 2}' in text.tokenizer.decode(ids)


TYPED = "a <|end|> b"
WITH_TYPED = {
    "an argument": {"prompt": [*ASKED, says("", tool_calls=[call(shelf=TYPED)]), RESULT]},
    "an argument's name": {"prompt": [*ASKED, says("", tool_calls=[call(**{TYPED: "x"})]), RESULT]},
    "a result": {"prompt": [*CALLED[:2], RESULT | {"content": TYPED}]},
    "a description": {"tools": [TOOLS[0], tool(f"x {TYPED}", a="string")]},
    "thoughts": {"chosen": [says("x", reasoning_content=TYPED)]},
    "a call as the answer": {"chosen": [says("", tool_calls=[call(shelf=TYPED)])]},
}


@pytest.mark.parametrize("where", WITH_TYPED)
def test_what_looks_like_a_special_token_is_text_wherever_it_stands(folder, where):
    text = Text(folder, HERMES)
    plain = ROWS["answers to a result"] | {"tools": TOOLS}
    row = plain | WITH_TYPED[where]
    prompt, (ids, _) = ids_of(text, read(row))
    mark = text.tokenizer.convert_tokens_to_ids("<|end|>")
    neutral = json.loads(json.dumps(row).replace("<|end|>", "END"))
    prompt_without, (ids_without, _) = ids_of(text, read(neutral))
    assert (prompt + ids).count(mark) == (prompt_without + ids_without).count(mark)
    assert ids[-1] == mark
    assert TYPED in text.tokenizer.decode(prompt + ids[:-1])


DROPS_TOOLS = HERMES.replace("{%- if tools %}", "{%- if false %}")
DROPS_ARGUMENTS = HERMES.replace("{{ call.arguments | tojson }}", "{}").replace("{{ call.arguments }}", "{}")
DROPS_CALLS = HERMES.replace("m.tool_calls or []", "[]")
DROPS_RESULTS = HERMES.replace("{{ m.content }}</tool_response>", "</tool_response>")
DROPS_THOUGHTS = HERMES.replace("m.reasoning_content and", "false and")
WITH_A_CALL = ROWS["a call as the answer"]
CANNOT = [
    (DROPS_TOOLS, ROWS["answers to a result"], "prompt_lost", "drops the tools|drops the tool"),
    (DROPS_ARGUMENTS, ROWS["answers to a result"], "prompt_lost", "the argument 'shelf' of the assistant"),
    (DROPS_CALLS, ROWS["answers to a result"], "prompt_lost", "the tool call|the argument"),
    (DROPS_RESULTS, ROWS["answers to a result"], "prompt_lost", "drops the tool's words '21'"),
    (DROPS_ARGUMENTS, WITH_A_CALL, "response_lost", "drops the argument 'shelf' of the response"),
    (DROPS_CALLS, WITH_A_CALL, "response_lost", "drops the tool call 'count' of the response"),
    (DROPS_THOUGHTS, THINKS, "response_lost", "drops the response's reasoning"),
    (
        JSON_FUNCTIONS,
        WITH_A_CALL | {"chosen": [says("", tool_calls=[call(shelf="A"), call(shelf="B")])]},
        "template",
        "only single tool-calls",
    ),
    (
        JSON_FUNCTIONS,
        WITH_A_CALL | {"chosen": [says("Look:", tool_calls=[call(shelf="A")])]},
        "response_lost",
        "Look",
    ),
    (
        LISTS,
        WITH_A_CALL | {"chosen": [says("", tool_calls=[call(id="c1", shelf="A")])]},
        "template",
        "9 letters",
    ),
]


@pytest.mark.parametrize(("template", "row", "reason", "sentence"), CANNOT)
def test_what_a_template_cannot_express_is_refused_with_its_reason(folder, template, row, reason, sentence):
    _, (chosen, _) = ids_of(Text(folder, template), read(row | {"tools": TOOLS}))
    assert isinstance(chosen, TemplateError) and chosen.reason == reason
    assert re.search(sentence, str(chosen))


def test_a_call_may_end_in_a_token_of_its_own(folder, tmp_path):
    """As a template has it that ends a call for a program to run, and another turn for the user."""
    tokenizer = Text(folder, HERMES).tokenizer
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|call|>"]}, replace_extra_special_tokens=False
    )
    tokenizer.save_pretrained(tmp_path)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|call|>")]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    text = Text(
        tmp_path,
        HERMES.replace(
            "<|end|>\n{%- endif -%}", "{{ '<|call|>' if m.tool_calls else '<|end|>' }}\n{%- endif -%}"
        ),
    )
    row = WITH_A_CALL | {"rejected": [says("Twenty.")]}
    prompt, (called, said) = ids_of(text, read(row | {"tools": TOOLS}))
    assert (called[-1], said[-1]) == (ends[1], ends[0])
    assert prompt + called == rendered(text, row["prompt"] + row["chosen"], TOOLS)


BAD_CALLS = {
    "no name": {"tool_calls": [{"function": {"arguments": {}}}]},
    "no object": {"tool_calls": ["count"]},
    "no list": {"tool_calls": {"function": {"name": "f"}}},
    "arguments that are a list": {"tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
    "arguments that are no JSON": {"tool_calls": [{"function": {"name": "f", "arguments": "{a: 1"}}]},
    "arguments that are a number as text": {"tool_calls": [{"function": {"name": "f", "arguments": "3"}}]},
}


@pytest.mark.parametrize("bad", BAD_CALLS)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_malformed_call_is_refused_in_a_sentence(bad, column):
    row = ROWS["answers to a result"] | {"tools": TOOLS}
    turn = says("x", **BAD_CALLS[bad])
    side = [*ASKED, turn, RESULT] if column == "prompt" else [turn]
    reading = read(row | {column: side})
    assert reading.reason == "bad_tool_call" and len(reading.detail) > 20


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, ["f"], [{"type": "function"}], "[1", 7])
def test_tools_that_are_none_are_refused(tools):
    reading = read(ROWS["answers to a result"] | {"tools": tools})
    assert reading.reason == "bad_tools"


def test_a_call_in_a_users_turn_is_refused():
    row = {"prompt": [says("q", "user", tool_calls=[call()])], "chosen": "a", "rejected": "b"}
    assert read(row).reason == "bad_tool_call"


def test_two_names_of_thoughts_that_differ_are_refused():
    row = THINKS | {"chosen": [says("x", reasoning="a", thinking="b")]}
    assert read(row).reason == "two_reasonings"


def test_a_name_that_the_template_drops_is_refused(folder):
    row = {"prompt": [says("q", "user", name="Ann")], "chosen": "a", "rejected": "b"}
    prompt, _ = ids_of(Text(folder, HERMES), read(row))
    assert isinstance(prompt, TemplateError) and "'Ann'" in str(prompt)
    named = Text(folder, HERMES.replace("<|{{ m.role }}|>", "<|{{ m.role }}|>{{ m.name or '' }} "))
    assert isinstance(ids_of(named, read(row))[0], list)


def test_texts_for_people_say_all_of_a_turn():
    reading = read(THINKS | {"tools": TOOLS})
    chosen, rejected = [response["text"] for response in reading.responses]
    assert chosen == "<think>the tool says 21</think>\nThere are 21."
    said = '{"name": "count", "arguments": {"shelf": "A", "floor": 1}}'
    assert rejected == f"<think>once more</think>\n{said}"
    assert '"arguments": {"shelf": "B", "floor": 2}' in reading.messages[1]["content"]


def test_a_row_without_any_of_it_has_no_column_of_it():
    reading = read({"prompt": ASKED, "chosen": "a", "rejected": "b", "tools": []})
    assert reading.chat is None and not any("turn" in response for response in reading.responses)


def test_other_formats_read_them_too():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "tool_calls": [call(shelf="B")]}]
    turns.append({"from": "tool", "value": "21"})
    sides = {
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b", "reasoning": "c"},
    }
    reading = read({"conversations": turns, **sides, "tools": json.dumps(TOOLS)}, "sharegpt")
    assert reading.reason is None, reading.detail
    chat = json.loads(reading.chat)
    assert chat["tools"] == TOOLS and chat["messages"][1]["tool_calls"][0]["function"]["name"] == "count"
    assert reading.responses[1]["text"] == "<think>c</think>\nb"
    reading = read({"messages": CALLED, "tools": TOOLS}, "prompts")
    assert json.loads(reading.chat)["messages"] == CALLED


def test_sides_that_differ_in_an_earlier_call_are_no_pair():
    other = [*ASKED, says("", tool_calls=[call(shelf="A")]), RESULT]
    row = {"chosen": [*CALLED, says("21")], "rejected": [*other, says("22")], "tools": TOOLS}
    assert read(row).reason == "prompts_differ"
    assert read({"prompt": other, **row, "rejected": [*CALLED, says("22")]}).reason == "prompts_differ"
    assert read(row | {"rejected": [*CALLED, says("22")]}).reason is None


def test_arguments_of_a_judge_are_its_own(folder):
    """The tokenizer is shared; what the template is told is not, and what it does not ask for is refused."""
    asks = HERMES.replace(
        "add_generation_prompt %}<|assistant|>", "add_generation_prompt %}<|assistant|>{{ mood }}"
    )
    text = Text(folder, asks, arguments={"mood": "calm"})
    other = text.with_arguments({"mood": "stern"}, "judge")
    own, its = text.prompts([ASKED])[0], other.prompts([ASKED])[0]
    assert text.tokenizer.decode(own).endswith("calm") and text.tokenizer.decode(its).endswith("stern")
    assert other.tokenizer is text.tokenizer and text.prompts([ASKED])[0] == own
    with pytest.raises(UserError, match=r"\[judge.template_arguments\] moods.*'mood'|does not ask for it"):
        text.with_arguments({"moods": "x"}, "judge")


RECIPE = """
[model]
[prompts]
shards = 1
[given]
[logprobs]
contexts = ["plain", "quality"]
[pairs]
choose = "given"
test_share = 0.0
[train]
batch_size = 2
max_steps = 1
learning_rate = 1e-3
"""


@pytest.mark.long
def test_calls_are_trained_on_from_the_file_to_the_step(tmp_path, model_path):
    """Two files of the same rows make the same pairs; the ids pass verify, and the policy takes a step."""
    model = tmp_path / "model"
    shutil.copytree(model_path, model)
    (model / "chat_template.jinja").write_text(HERMES)
    short = [tool(shelf="string")]
    asked = [says("B?", "user")]
    called = [*asked, says("", tool_calls=[call(shelf="B")]), says("21", "tool")]
    given = [
        {
            "prompt": asked,
            "chosen": [says("", tool_calls=[call(shelf="B")])],
            "rejected": [says("21")],
            "tools": short,
        },
        {"prompt": called, "chosen": [says("21", reasoning="so")], "rejected": [says("2")], "tools": short},
        {"prompt": [says("2 + 2?", "user")], "chosen": [says("4")], "rejected": [says("5")], "tools": None},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, given)))
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "in.parquet")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    pairs = []
    for name in ("in.jsonl", "in.parquet"):
        run = tmp_path / f"run-{name}"
        inputs = settings(prompts__source=tmp_path / name, model__name=model)
        command("engine", "precompute", tmp_path / "recipe.toml", "-o", run, *inputs)
        (file,) = run.glob("pairs-*/*.pairs.parquet")
        pairs.append(pq.read_table(file))
    assert pairs[0].num_rows == 3 and pairs[0].equals(pairs[1])
    assert any("so</think>" in text for text in pairs[0]["chosen"].to_pylist())
    command("engine", "verify", "--trainer-alone", run)
    command("trainer", "run", tmp_path / "recipe.toml", "-o", run, *settings(model__name=model))
    assert list(run.glob("train-*/checkpoint-1/model.safetensors"))


@pytest.mark.parametrize("shape", ["preference", "ms_swift", "sharegpt"])
def test_other_tools_calls_have_the_ids_of_tool_calls(folder, shape):
    """Two calls of the past in two turns, a result, and a call as the better answer."""
    calls = [call(shelf="B", floor=2), call("weigh", item="B")]
    texts = [json.dumps(one["function"]) for one in calls]
    past = [*ASKED, *[says(text, "tool_call") for text in texts], says("21", "tool_response")]
    answer, other = says(texts[1], "function_call"), says("None.")
    row = {"prompt": past, "chosen": [answer], "rejected": [other]}
    if shape == "ms_swift":
        row = {"messages": [*past, answer], "rejected_response": "None."}
    if shape == "sharegpt":
        roles = {"tool_call": "function_call", "tool_response": "observation", "user": "human"}
        turns = [
            {"from": roles.get(turn["role"], turn["role"]), "value": turn["content"]}
            for turn in [*past, answer, other]
        ]
        row = {"conversations": turns[:-2], "chosen": turns[-2], "rejected": turns[-1]}
    reading = read(row | {"tools": json.dumps(TOOLS)}, shape)
    assert reading.reason is None, reading.detail
    text = Text(folder, HERMES)
    prompt, (chosen, rejected) = ids_of(text, reading)
    plain = [*ASKED, says("", tool_calls=calls), says("21", "tool")]
    assert prompt + chosen == rendered(text, [*plain, says("", tool_calls=calls[1:])], TOOLS)
    assert prompt + rejected == rendered(text, [*plain, other], TOOLS)
