"""A model is its weights, config, tokenizer, template and where its responses end; nothing else."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from schemas.errors import UserError
from schemas.forward.load import load
from schemas.identity import identify
from schemas.sections import Model
from tests.conftest import ROOT
from tests.schemas.models import add_adapter, change_json, change_weights, copy_of, shard, write_index


@pytest.fixture
def own(model_path, tmp_path):
    return copy_of(model_path, tmp_path / "model")


def facts(path, **more):
    return identify(Model(name=str(path), **more)).facts()


def weights_as_loaded(path):
    return load(path, torch.float32, "cpu").state_dict()


def test_the_digests_of_an_ordinary_folder_are_those_that_caches_were_made_with():
    assert facts(ROOT / "pipelines" / "sandbox" / "model") == {
        "weights": "8a3dad199589",
        "config": "702bb4e7ac01",
        "tokenizer": "343f0f329a14",
        "template": "7ec2128a7b09",
    }


BESIDE = (
    "optimizer.safetensors",
    "state.json",
    "README.md",
    "consolidated.safetensors",
    "params.json",
    "pytorch_model.bin",
    "model.gguf",
    "tekken.json",
    "tokenizer.model.v3",
    "training_args.bin",
)


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_a_model_is_not_the_model(own, name):
    before = facts(own)
    (own / name).write_bytes(b"{}")
    assert facts(own) == before


def test_where_a_response_ends_is_part_of_the_tokenizer(own):
    before = facts(own)
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    after = facts(own)
    assert [name for name in after if after[name] != before[name]] == ["tokenizer"]
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1], "temperature": 0.3}))
    assert facts(own) == after


def test_the_day_counts_where_the_template_asks_for_it(own):
    assert facts(own) == facts(own, date="2031-01-01")
    (own / "chat_template.jinja").write_text("{{ strftime_now('%d') }}{{ messages[0].content }}")
    assert facts(own) != facts(own, date="2031-01-01")


@pytest.mark.parametrize(
    "name",
    [
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tiktoken.model",
        "tokenizer.model",
        "merges.txt",
    ],
)
def test_every_file_that_a_tokenizer_may_be_made_of_counts(own, name):
    seen = [facts(own)["tokenizer"]]
    for content in (b"one", b"two"):
        (own / name).write_bytes(content)
        seen.append(facts(own)["tokenizer"])
    assert len(set(seen)) == 3


def test_the_vocabularies_that_transformers_names_are_all_known():
    """Its tokenizers' files, read from its sources: what it may open is what counts."""
    import transformers

    from schemas.model_files import _BESIDE_VOCABULARIES, _VOCABULARIES

    named: set[str] = set()
    for source in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for block in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", source.read_text(), re.DOTALL):
            named.update(re.findall(r': "([^"]+)"', block))
    assert len(named) > 10
    assert named - {"tokenizer_config.json"} <= {*_VOCABULARIES, *_BESIDE_VOCABULARIES}


def test_a_tokenizer_for_one_version_of_transformers_counts(own):
    change_json(own / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.5.0.0.json"])
    (own / "tokenizer.json").rename(own / "tokenizer.5.0.0.json")
    before = facts(own)["tokenizer"]
    text = (own / "tokenizer.5.0.0.json").read_text()
    (own / "tokenizer.5.0.0.json").write_text(text.replace('"eos"', '"EOS"') + " ")
    assert facts(own)["tokenizer"] != before


@pytest.mark.parametrize(
    ("file", "values", "fact"),
    [
        ("config.json", {"eos_token_id": 7}, "config"),
        ("config.json", {"rope_theta": 5e5}, "config"),
        ("tokenizer_config.json", {"add_prefix_space": True}, "tokenizer"),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}, "tokenizer"),
        ("generation_config.json", {"eos_token_id": 9}, "tokenizer"),
    ],
)
def test_a_setting_that_is_read_changes_its_fact_alone(own, file, values, fact):
    before = facts(own)
    change_json(own / file, **values)
    after = facts(own)
    assert [name for name in after if after[name] != before[name]] == [fact]


def test_shards_are_loaded_by_their_index_and_each_counts(own):
    whole = weights_as_loaded(own)
    weight_map = shard(own)
    before = facts(own)
    loaded = weights_as_loaded(own)
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)
    change_weights(own / max(weight_map.values()))
    assert facts(own)["weights"] != before["weights"]


def test_an_index_says_what_the_shards_hold_or_the_folder_is_refused(own):
    weight_map = shard(own)
    one, other = sorted(weight_map)[:2]
    write_index(own, weight_map | {one: weight_map[other], other: weight_map[one]})
    with pytest.raises(UserError, match=rf"its index says that .*({one}|{other}).* which does not hold it"):
        facts(own)
    write_index(own, weight_map | {one: "../other.safetensors"})
    with pytest.raises(UserError, match=r"no \.safetensors file of the folder"):
        facts(own)
    (own / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        facts(own)


def test_a_single_file_beside_shards_is_refused_by_digest_and_by_load(own):
    shard(own, keep_single=True)
    change_weights(own / "model.safetensors")
    said = r"model.safetensors and model.safetensors.index.json, which names other files .*delete"
    for look in (facts, weights_as_loaded):
        with pytest.raises(UserError, match=said):
            look(own)


def test_an_index_that_names_the_single_file_is_no_other_model(own):
    before = facts(own)
    names = list(weights_as_loaded(own))
    names.remove("lm_head.weight")  # tied, so not in the file
    write_index(own, dict.fromkeys(names, "model.safetensors"))
    assert facts(own) == before
    assert weights_as_loaded(own)


def test_an_adapter_is_refused_without_its_base_and_beside_a_model(own, tmp_path):
    add_adapter(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapter is an adapter \(LORA\) on acme/base-7b, which is not"):
        facts(tmp_path / "adapter")
    add_adapter(own)
    for look in (facts, weights_as_loaded):
        with pytest.raises(UserError, match=r"an adapter .*acme/base-7b\) beside a whole model.*move"):
            look(own)


@pytest.mark.parametrize(
    "beside",
    ["consolidated.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "model.fp16.safetensors"],
)
def test_what_does_not_count_is_not_loaded(own, beside):
    whole = weights_as_loaded(own)
    (own / beside).write_bytes((own / "model.safetensors").read_bytes())
    if beside.endswith(".safetensors"):
        change_weights(own / beside)
    loaded = weights_as_loaded(own)
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_a_loaded_model_knows_its_own_folder(own):
    model = load(own, torch.float32, "cpu")
    assert model.name_or_path == model.config._name_or_path == str(own)


def place(own, where, text):
    """Put a chat template into one of the places where one may stand."""
    if where.endswith(".jinja"):
        (own / where).parent.mkdir(exist_ok=True)
        (own / where).write_text(text)
    else:
        change_json(own / where, chat_template=text)


DEFAULT = ("chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/default.jinja")
PLACES = (*DEFAULT, "chat_template.json")
ONE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


@pytest.mark.parametrize("where", PLACES)
def test_a_template_is_found_wherever_it_may_stand(own, where):
    (own / "chat_template.jinja").unlink()
    assert identify(Model(name=str(own))).template_source == "plain"
    place(own, where, ONE)
    found = identify(Model(name=str(own)))
    assert (found.template_text, found.template_source) == (ONE, "model")
    if where in DEFAULT[:2]:
        assert AutoTokenizer.from_pretrained(own).chat_template == ONE
    place(own, where, ONE + "!")
    assert facts(own)["template"] != found.template


@pytest.mark.parametrize(("first", "second"), itertools.permutations(PLACES, 2))
def test_two_places_say_the_same_or_are_refused(own, first, second):
    (own / "chat_template.jinja").unlink()
    place(own, first, ONE)
    place(own, second, ONE + "\n")  # Jinja leaves out this line end
    assert facts(own)
    place(own, second, ONE + "!")
    with pytest.raises(UserError, match=r"two different chat templates, in .* and in .*model.chat_template"):
        facts(own)


@pytest.mark.parametrize("form", ["list", "map", "files"])
def test_named_templates_are_taken_by_default_or_refused_with_their_names(own, form, tmp_path):
    (own / "chat_template.jinja").unlink()

    def name(templates):
        if form == "files":
            for key, text in templates.items():
                place(own, f"additional_chat_templates/{key}.jinja", text)
        elif form == "list":
            place(own, DEFAULT[1], [{"name": key, "template": text} for key, text in templates.items()])
        else:
            place(own, DEFAULT[1], templates)

    name({"rag": "r", "tool_use": "t"})
    with pytest.raises(
        UserError, match=r"none of them is called default: rag, tool_use; .*model.chat_template"
    ):
        facts(own)
    (tmp_path / "mine.jinja").write_text(ONE)
    mine = identify(Model(name=str(own), chat_template=str(tmp_path / "mine.jinja")))
    assert (mine.template_text, mine.template_source) == (ONE, "recipe")
    name({"rag": "r", "default": ONE})
    assert identify(Model(name=str(own))).template_text == ONE
    assert AutoTokenizer.from_pretrained(own).chat_template["default"] == ONE
