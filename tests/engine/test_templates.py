"""What is trained is what the template renders for the whole dialogue, whatever a template does.

The oracle is transformers' own `apply_chat_template` with the response in it, tokenised as one text. Every
behaviour is tried on tokenizers of several families.
"""

import copy
import json
from dataclasses import dataclass, field
from datetime import date

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine.text import TemplateError, Text
from schemas.errors import UserError

_SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<unk>"]
_CORPUS = [
    "Say the number three. The number is 3, and Once upon a time it was thinking.",
    "You are brief. <think>\ntwo and two</think> Tools: none. Today is 03 Feb 2031.\n\nYes.\n",
] * 8


def _trained(family: str) -> Tokenizer:
    """A small BPE of a family."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet: list[str] = []
    if family == "byte-level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif family == "space in front of the first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace(prepend_scheme="first")
    elif family == "space in front of every part":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
    else:
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        backend.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return backend


FAMILIES = ["byte-level", "space in front of the first", "space in front of every part", "normalising"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """A tokenizer's folder: EOS is </s>; the turn markers are special without a name."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained(request.param), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path


def turns(content: str = "m.content", end: str = "<|end|>", then: str = "<|assistant|>") -> str:
    """A template of marked turns; `then` is its generation prompt."""
    return (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ " + content + " }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}" + then + "\n{% endif %}"
    )


_QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' %}"
    "{% set c = m.content %}{% set t = '' %}"
    "{% if '</think>' in c %}"
    "{% set t = c.split('</think>')[0].split('<think>')[-1].strip() %}{% set c = c.split('</think>')[-1] %}"
    "{% endif %}"
    "{% if loop.last %}<think>\n{{ t }}\n</think>\n\n{% endif %}{{ c.lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_USER = [{"role": "user", "content": "Say the number three. \n"}]
_SYSTEM = [{"role": "system", "content": "You are brief."}, *_USER]
_THOUGHT = [
    {"role": "user", "content": "Say two."},
    {"role": "assistant", "content": "<think>two and two</think>Yes."},
    {"role": "user", "content": "Once upon?"},
]


@dataclass
class Behaviour:
    """A template, and what comes of each response: a reject's reason, or None: it is trained as rendered."""

    template: str
    prompt: list[dict]
    responses: list[str]
    reasons: list[str | None]
    prompt_holds: list[str] = field(default_factory=list)
    arguments: dict = field(default_factory=dict)
    end: str = "<|end|>"


PARTS = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
BEHAVIOURS = {
    "does nothing": Behaviour(turns(), _USER, ["Once.", " The number is 3. \n"], [None, None]),
    "trims": Behaviour(
        turns("m.content | trim"), _USER, ["\n Yes.\n\n", "Yes.", "<s>Yes</s> . "], [None, None, None]
    ),
    "no generation prompt": Behaviour(
        turns(then=""), _USER, ["Once upon a time.", "3"], [None, None], ["<|assistant|>\n"]
    ),
    "opens a thinking block": Behaviour(
        turns(then="<|assistant|>\n<think>"),
        _USER,
        ["<think>\ntwo</think>Yes.", "Yes."],
        [None, "template_border"],
    ),
    "an empty thinking block": Behaviour(
        _QWEN3, _THOUGHT, ["Yes.", "<think>\ntwo and two\n</think>\n\nYes."], [None, None]
    ),
    "raises on system": Behaviour(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + turns(),
        _SYSTEM,
        ["Once."],
        ["template"],
    ),
    "drops the system text": Behaviour(
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        _SYSTEM,
        ["Once."],
        ["prompt_lost"],
    ),
    "wants content parts": Behaviour(
        "{% for m in messages %}<|{{ m.role }}|>" + PARTS + "<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        _SYSTEM,
        ["Once upon a time."],
        [None],
        ["You are brief.", "Say the number three."],
    ),
    "date": Behaviour(
        "Today is {{ strftime_now('%d %b %Y') }}.\n" + turns(), _USER, ["Once."], [None], ["03 Feb 2031"]
    ),
    "tools": Behaviour(
        "{% if tools %}Tools: {{ tools | tojson }}{% endif %}" + turns(), _USER, ["Once."], [None]
    ),
    "default system text": Behaviour(
        "{% if messages[0].role != 'system' %}<|system|>You are brief.<|end|>{% endif %}" + turns(),
        _USER,
        ["Once."],
        [None],
        ["You are brief."],
    ),
    "the row's own system text": Behaviour(
        "{% if messages[0].role != 'system' %}<|system|>Be long.<|end|>{% endif %}" + turns(),
        _SYSTEM,
        ["Once."],
        [None],
        ["You are brief."],
    ),
    "ends with EOS": Behaviour(turns(end="</s>"), _USER, ["Once."], [None], end="</s>"),
    "ends with nothing": Behaviour(turns(end=""), _USER, ["Once."], [None], end="</s>"),
    "strips earlier thoughts": Behaviour(
        turns("m.content.split('</think>')[-1] if not loop.last else m.content"),
        _THOUGHT,
        ["<think>two</think>3", "Yes."],
        [None, None],
    ),
    "strips the response's own thoughts": Behaviour(
        turns("m.content.split('</think>')[-1]"), _USER, ["<think>two</think>3", "3"], ["response_lost", None]
    ),
    "BOS in the template": Behaviour("{{ bos_token }}" + turns(), _USER, ["Once upon."], [None], ["<s>"]),
    "a space before the response": Behaviour(
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>{% else %}"
        "<s>[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
        [{"role": "user", "content": "Say three."}],
        ["Once upon."],
        [None],
        end="</s>",
    ),
    "arguments of its own": Behaviour(
        "{% if enable_thinking is defined and not enable_thinking %}No thinking.{% endif %}" + turns(),
        _USER,
        ["Once."],
        [None],
        ["No thinking."],
        {"enable_thinking": False},
    ),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_what_is_trained_is_what_the_template_renders(folder, name):
    behaviour = BEHAVIOURS[name]
    text = Text(folder, behaviour.template, "2031-02-03", behaviour.arguments)
    (prompt,) = text.prompts([behaviour.prompt])
    (responses,) = text.responses([behaviour.prompt], [behaviour.responses])
    for answer, ids, reason in zip(behaviour.responses, responses, behaviour.reasons, strict=True):
        if reason:
            assert isinstance(ids, TemplateError) and ids.reason == reason
            continue
        assert isinstance(prompt, list) and isinstance(ids, list)
        assert ids[-1] == text.end_id == text.tokenizer.convert_tokens_to_ids(behaviour.end)
        if "<s>" in answer:
            continue  # the oracle would take typed markers for the template's
        whole = _rendered_ids(folder, behaviour, answer)
        trained = prompt + ids
        template_ends_it = behaviour.end in behaviour.template
        if not template_ends_it:
            trained = trained[:-1]  # EOS does, and no line's end is merged into the last token
        if whole[: len(prompt)] == prompt and template_ends_it:
            assert trained == whole[: len(trained)]
            assert len(whole) - len(trained) <= 2  # what a template puts after the end of the turn
        else:
            # A token spans the border, which none does for a model that has read the prompt's ids.
            said = text.tokenizer.decode(whole)
            assert said.startswith(text.tokenizer.decode(trained))
    rendered = text.template.prompt(behaviour.prompt) if isinstance(prompt, list) else ""
    for words in behaviour.prompt_holds:
        assert words in rendered


def _rendered_ids(folder, behaviour: Behaviour, answer: str) -> list[int]:
    """The whole dialogue by transformers alone."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = copy.deepcopy([*behaviour.prompt, {"role": "assistant", "content": answer}])
    if PARTS in behaviour.template:
        for message in messages:
            message["content"] = [{"type": "text", "text": message["content"]}]
    rendered = tokenizer.apply_chat_template(
        messages,
        chat_template=behaviour.template,
        tokenize=False,
        strftime_now=date(2031, 2, 3).strftime,
        **behaviour.arguments,
    )
    return tokenizer(rendered, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", ["does nothing", "trims", "a space before the response"])
@pytest.mark.parametrize("typed", ["</s>", "a <|end|> b", "<|user|>", "x<s>"])
def test_typed_markers_change_nothing_around_them(folder, name, typed):
    """With and without a typed special token the other ids are the same, and none is special."""
    behaviour = BEHAVIOURS[name]
    text = Text(folder, behaviour.template)
    special = {text.tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL} - {
        text.tokenizer.convert_tokens_to_ids("<unk>")
    }
    ((plain,),) = text.responses([behaviour.prompt], [["Once upon."]])
    ((ids,),) = text.responses([behaviour.prompt], [[f"Once upon. {typed}."]])
    assert ids[: len(plain) - 2] == plain[:-2]
    assert [token for token in ids if token in special] == [text.end_id]
    asked = [{"role": "user", "content": f"Say {typed} twice."}]
    (prompt,) = text.prompts([asked])
    (harmless,) = text.prompts([[{"role": "user", "content": "Say it twice."}]])
    assert [token for token in prompt if token in special] == [
        token for token in harmless if token in special
    ]


def test_an_opening_is_the_dialogue_up_to_what_was_begun(folder):
    for name in ("does nothing", "no generation prompt", "an empty thinking block", "opens a thinking block"):
        behaviour = BEHAVIOURS[name]
        text = Text(folder, behaviour.template)
        (ids,) = text.openings([_USER], ["Rating: "])
        whole = _rendered_ids(folder, Behaviour(behaviour.template, _USER, [], []), "Rating: 3")
        begun = _rendered_ids(folder, Behaviour(behaviour.template, _USER, [], []), "Rating: ")
        common = 0
        while common < len(begun) and begun[common] == whole[common]:
            common += 1
        assert ids[: common - 1] == whole[: common - 1]
        assert text.tokenizer.decode(ids).endswith("ating: ")


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [1, 5]}, {}, {1, 5}),
        ({"eos_token_id": 5}, {"eos_token_id": 4}, {1, 4, 5}),
        (None, {"eos_token_id": [4, 5]}, {1, 4, 5}),
        (None, {"text_config": {"eos_token_id": 4}}, {1, 4}),
        ({}, {"eos_token_id": None}, {1}),
    ],
)
def test_end_tokens_come_from_every_place_that_names_them(folder, tmp_path, generation, config, expected):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    text = Text(tmp_path, turns(end="</s>"))
    assert text.stop_ids == expected
    ending = Text(tmp_path, turns())
    assert ending.stop_ids == expected | {ending.end_id}
    assert ending.remarks()[0] == f"responses end with <|end|> ({ending.end_id})"


def test_a_line_end_that_is_a_token_of_its_own_ends_no_response(folder, tmp_path):
    """Some tokenizers hold line ends as added tokens; a template that puts one after a turn ends nothing."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("\n", special=False, normalized=False)])
    tokenizer.save_pretrained(tmp_path)
    text = Text(tmp_path, turns(end=""))
    assert text.end_id == tokenizer.eos_token_id and not text.template_ends_turns


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("</answer><|end|>\n", "<|end|>"),  # the model's own end, not the first token that is no text
        ("<|system|><|end|>", "<|end|>"),
        ("</answer>\n", "</answer>"),
        ("<|system|></answer>", "<|system|>"),
    ],
)
def test_a_response_ends_with_the_token_by_which_the_model_ends_one(folder, tmp_path, end, expected):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("</answer>", special=False, normalized=False)])
    tokenizer.save_pretrained(tmp_path)
    ending = tokenizer.convert_tokens_to_ids("<|end|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ending]}))
    text = Text(tmp_path, turns(end=end))
    ((ids,),) = text.responses([_USER], [["Once."]])
    assert text.end_id == ids[-1] == tokenizer.convert_tokens_to_ids(expected)
    markers = tokenizer.convert_tokens_to_ids(["</answer>", "<|system|>", "<|end|>"])
    kept = end[: end.index(expected) + len(expected)]
    in_order = [marker for marker in markers if tokenizer.convert_ids_to_tokens(marker) in kept]
    if kept.startswith("<|system|></"):
        in_order.reverse()
    assert [token for token in ids if token in markers] == in_order


def test_an_end_of_turn_that_is_no_token_is_trained_as_text(folder):
    """ChatML on a tokenizer without its tokens: what the template writes is not left out."""
    text = Text(folder, turns(end="<|im_end|>"))
    ((ids,),) = text.responses([_USER], [["Once."]])
    assert ids[-1] == text.end_id == text.tokenizer.eos_token_id
    as_text = text.tokenizer.decode(ids[:-1])
    assert as_text.replace(" ", "").endswith("im_end|>") or "<unk>" in as_text
    assert "which is no token of this tokenizer" in text.remarks()[1]


def test_an_end_of_turn_that_the_tokenizer_cuts_into_pieces_is_refused(tmp_path):
    backend = _trained("space in front of every part")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<|stop|>", special=True, normalized=True)])
    tokenizer.save_pretrained(tmp_path)
    text = "{% for m in messages %}{{ m.content }}<|stop|>\n{% endfor %}"
    whole = tokenizer("x<|stop|>", add_special_tokens=False).input_ids
    if whole[-1] == tokenizer.convert_tokens_to_ids("<|stop|>"):
        pytest.skip("this version of tokenizers finds it")
    with pytest.raises(UserError, match=r"cuts '<\|stop\|>'"):
        Text(tmp_path, text)


@pytest.mark.parametrize("token", ["<|end|>", "</s>"])
def test_a_response_that_brings_its_own_end_ends_once_or_is_refused(folder, token):
    ((plain,),) = Text(folder, turns()).responses([_USER], [["Once."]])
    ((as_text,),) = Text(folder, turns()).responses([_USER], [[f"Once.{token}\n"]])
    assert isinstance(as_text, TemplateError) and as_text.reason == "ends_twice" and token in str(as_text)
    ((as_token,),) = Text(folder, turns(), markers="token").responses([_USER], [[f"Once.{token}\n"]])
    assert as_token == plain


def test_earlier_turns_that_are_lost_are_noticed_where_their_words_occur_elsewhere(folder):
    last_alone = "{% for m in messages[-1:] %}" + turns().split("%}", 1)[1]
    asked = [
        {"role": "user", "content": "Tell me about cats"},
        {"role": "assistant", "content": "cats"},
        {"role": "user", "content": "Tell me about cats and dogs"},
    ]
    (refused,) = Text(folder, last_alone).prompts([asked])
    assert isinstance(refused, TemplateError) and refused.reason == "prompt_lost"
    (whole,) = Text(folder, turns()).prompts([asked])
    assert isinstance(whole, list)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_thinkng": False}, "did you mean 'enable_thinking'"),
        ({"enable_thinking": "False"}, "write false without quotes"),
        ({"date_string": "today"}, "set model.date"),
        ({"tokenize": True}, "does not ask for it"),
    ],
)
def test_arguments_that_do_nothing_are_refused(folder, arguments, message):
    template = "{{ date_string }}{% if enable_thinking %}x{% endif %}" + turns()
    with pytest.raises(UserError, match=message):
        Text(folder, template, arguments=arguments)


def test_a_refusal_shows_what_was_typed_and_not_what_stands_for_it(folder):
    text = Text(folder, "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}")
    asked = [{"role": "system", "content": "end with <|end|>"}, *_USER]
    (refused,) = text.prompts([asked])
    assert isinstance(refused, TemplateError) and "'end with <|end|>'" in str(refused)


def test_markers_that_take_white_space_take_it_beside_typed_ones_too(folder, tmp_path):
    """A special token may take the white space behind it (rstrip): with and without a typed token alike."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<|header|>", special=True, normalized=False, rstrip=True)])
    tokenizer.save_pretrained(tmp_path)
    template = (
        "{% for m in messages %}<|header|>\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>\n{% endif %}"
    )
    text = Text(tmp_path, template)
    asked = [{"role": "user", "content": "What does <|user|> do?"}]
    (prompt,) = text.prompts([asked])
    (harmless,) = text.prompts([[{"role": "user", "content": "What does it do?"}]])
    assert prompt[:2] == harmless[:2] and prompt[-2:] == harmless[-2:]
    ((typed, plain),) = text.responses([_USER], [["\nIt is <|user|> it.", "\nIt is."]])
    assert typed[0] == plain[0]


def _with_markers(text: str) -> str:
    return text.replace("<think>", "<|think|>").replace("</think>", "<|/think|>")


def test_special_tokens_that_mark_thoughts_reach_the_template(folder, tmp_path):
    """A template drops earlier thoughts by a marker that may be a special token; a user's is text."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    thoughts = ["<|think|>", "<|/think|>"]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in thoughts])
    tokenizer.save_pretrained(tmp_path)
    begin, end = tokenizer.convert_tokens_to_ids(thoughts)
    template = turns("m.content.split('<|/think|>')[-1] if not loop.last else m.content")
    asked = [{**turn, "content": _with_markers(turn["content"])} for turn in _THOUGHT]
    text = Text(tmp_path, template)
    (prompt,) = text.prompts([asked])
    assert begin not in prompt and "two and two" not in text.tokenizer.decode(prompt)
    ((response,),) = text.responses([asked], [[_with_markers("<think>two</think>3")]])
    assert response.count(begin) == response.count(end) == 1
    (typed,) = text.prompts([[{"role": "user", "content": "What is <|/think|>?"}]])
    assert end not in typed


def test_a_text_that_is_normalised_into_a_special_token_is_refused(tmp_path):
    """Letters of full width that NFKC makes <|stop|> of: the user has typed no special token."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained("normalising"), eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens([AddedToken("<|stop|>", special=True, normalized=True)])
    tokenizer.save_pretrained(tmp_path)
    text = Text(tmp_path, turns(end="</s>"))
    disguised = "What does \uff1c|stop|\uff1e do?"
    fine, refused = text.prompts([_USER, [{"role": "user", "content": disguised}]])
    assert isinstance(fine, list)
    assert isinstance(refused, TemplateError) and refused.reason == "special_token"
    ((good, bad),) = text.responses([_USER], [["It stops.", disguised]])
    assert isinstance(good, list) and isinstance(bad, TemplateError)


@pytest.mark.parametrize("begins", [" Once", "Once", "\nOnce", "  Once", "nce upon"])
def test_a_long_prompt_is_continued_as_a_short_one_is(folder, begins):
    """Only the end of a long prompt is tokenised again for each response: the ids are those of the whole."""
    tokens = Text(folder, turns())._tokens
    words = _CORPUS[0].split() + _CORPUS[1].split()
    for length in (20, 90, 97, 193, 400, 1500):
        text = "<s>" + " ".join(words * 40)[:length]
        more = f"{begins} upon a time.<|end|>"
        whole = tokens.ids(text + more)
        before = tokens.ids(text)
        (found,) = tokens.continuations([(text, more)])
        if whole[: len(before)] == before:
            assert found == whole[len(before) :]
        else:
            assert found == tokens._continuation(more, split_special_tokens=False)
