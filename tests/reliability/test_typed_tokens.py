"""What somebody typed is text, whatever it is: special tokens, stand-ins for them, marks of our own."""

import json

import pytest

from engine.models.hf import HF
from engine.models.spec import ModelSpec, resolve
from engine.text import Chat, TemplateError, Text
from schemas.errors import UserError
from schemas.redaction import without_credentials
from schemas.sections import Model
from tests.schemas.models import copy_of

TEMPLATE = (
    "{{ bos_token }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
    "[{{ m.role }}]{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TYPED = [
    *(
        "\ue000" + "0\ue001",
        "\ue0000\ue001</s>",
        "</s>\ue0000\ue001",
        "\ue0020\ue003</s>",
        "\\ue0000\\ue001</s>",
    ),
    *(
        "\ue002response\ue002",
        "\ue002response\ue002\ue002response\ue002</s>",
        "</s>",
        "<s></s><s>",
        "prefmill-argument",
    ),
    *("\ue0000\ue0010</s>1\ue001", "\ue000" * 9 + "</s>", "\U000f00000\U000f0001</s>", "\uf8ff0\ue000</s>"),
]


def special_ids(text, ids):
    return [token for token in ids if token in text.tokenizer.all_special_ids]


def as_it_was(text, ids):
    return text.tokenizer.decode(ids, skip_special_tokens=False)


def test_what_somebody_typed_comes_out_as_it_was_wherever_it_stands(
    model_path, trials, byte_tokenizer, tmp_path
):
    byte_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    text = Text(tmp_path, TEMPLATE)
    plain = [{"role": "user", "content": "a"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with trials("a special token, or what stands in for one, typed by somebody") as trial:
        for typed in TYPED:
            call = {"id": "i", "type": "function", "function": {"name": "f", "arguments": {"x": typed}}}
            asked = [{"role": "user", "content": f"x {typed} y"}]
            places = {
                "prompt": (text.prompts([asked]), text.prompts([plain]), typed),
                "judge": (text.openings([asked], ["So"]), text.openings([plain], ["So"]), typed),
                "beginning": (
                    text.openings([plain], [f"x {typed} y"]),
                    text.openings([plain], ["So"]),
                    typed,
                ),
                "response": (
                    text.responses([plain], [[f"x {typed} y"]])[0],
                    text.responses([plain], [["b"]])[0],
                    typed,
                ),
                "argument": (
                    text.prompts(
                        [Chat([*asked, {"role": "assistant", "content": "", "tool_calls": [call]}, *plain])]
                    ),
                    text.prompts([Chat([*plain, {"role": "assistant", "content": "c"}, *plain])]),
                    json.dumps(typed, ensure_ascii=False)[1:-1],
                ),
                "tool": (
                    text.prompts([Chat(plain, [tool | {"description": typed}])]),
                    text.prompts([Chat(plain, [tool])]),
                    json.dumps(typed, ensure_ascii=False)[1:-1],
                ),
            }
            for place, ((ids,), (usual,), written) in places.items():
                with trial(f"{typed!a} as {place}"):
                    assert not isinstance(ids, TemplateError), str(ids)
                    assert special_ids(text, ids) == special_ids(text, usual)
                    assert written in as_it_was(text, ids)


def test_a_text_with_every_private_character_is_refused_alone(model_path, trials):
    text = Text(model_path, TEMPLATE)
    every = "".join(map(chr, range(0xE000, 0xF900)))
    all_of_them = every + text.tokenizer.eos_token
    prompts = [[{"role": "user", "content": said}] for said in ("a", all_of_them, "b")]
    with trials("a text in which nothing can stand in for a special token") as trial:
        with trial("prompts"):
            assert [isinstance(ids, TemplateError) for ids in text.prompts(prompts)] == [False, True, False]
        with trial("responses"):
            found = text.responses(prompts, [["1."]] * 3)
            assert [isinstance(ids, TemplateError) for (ids,) in found] == [False, True, False]


def test_a_single_bad_number_stops_also_the_question_of_a_judge(model_path, tmp_path):
    """Questions that are answered by one token go another way than responses; none of their NaNs is kept."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    path = copy_of(model_path, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(path)
    met = set(
        torch.randint(0, model.config.vocab_size, (16,), generator=torch.Generator().manual_seed(7)).tolist()
    )
    bad = next(token for token in range(model.config.vocab_size) if token not in met)
    tensors = load_file(path / "model.safetensors")
    tensors["model.embed_tokens.weight"][bad] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    opened = HF(resolve(ModelSpec(Model(name=str(path)), "hf")), "cpu")
    fine = [token for token in range(model.config.vocab_size) if token != bad][:3]
    assert opened.logprobs([fine], [[[token] for token in fine]])
    with pytest.raises(UserError, match=rf"{path} gives log-probs that are not finite"):
        opened.logprobs([fine, [*fine, bad]], [[[token] for token in fine]] * 2)


ADDRESSES = [
    *(
        "https://user:hunter2@host/x",
        "http://hunter2@host:80",
        "https://host/x?token=hunter2",
        "s3://hunter2:b@c/d",
    ),
    *(
        "https://host/?a=1&api_key=hunter2&b=2",
        "https://host/?X-Amz-Signature=hunter2",
        "http://u:p%40hunter2@proxy:3128",
    ),
    *(
        "https://host/?sig=hunter2#x",
        "wss://h/?access_token=hunter2",
        "socks5://u:hunter2@h:1",
        "https://h/?password=hunter2",
    ),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_message_repeats_what_an_address_says_of_its_user(address, trials):
    with trials("an address with a password or a token, in a message") as trial:
        for form in ("{}", "cannot reach {}: refused", "ProxyError('{}')", 'at "{}" and {}', "{}\n{}"):
            with trial(form):
                said = str(UserError(form.replace("{}", address)))
                assert "hunter2" not in said and "://" in said
                assert without_credentials(said) == said
    for harmless in ("https://host/path?page=2", "org/name@rev", "mail a@b.de", "https://host/a@b"):
        assert without_credentials(harmless) == harmless
