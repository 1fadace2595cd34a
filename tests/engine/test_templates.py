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
        turns("m.content | trim"), _USER, ["\n Yes.\n\n", "Yes.", "<s>Yes</s> "], [None, None, None]
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
    ((ids,),) = text.responses([behaviour.prompt], [[f"Once upon. {typed}"]])
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
