"""What is no model here is said in one sentence, while a run is planned: families, forms, damage."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.errors import UserError
from schemas.forward.load import load
from schemas.identity import identify
from schemas.sections import Model
from tests.schemas.models import change_json, copy_of, saved, shard

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22ead\nsize 1\n"
)
SMALL = {"vocab_size": 70, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2}


@pytest.fixture
def own(model_path, tmp_path):
    return copy_of(model_path, tmp_path / "model")


def refused(path, said):
    """The folder's refusal: one sentence that begins with where, and says what to do."""
    with pytest.raises(UserError, match=said) as caught:
        identify(Model(name=str(path)))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message


FAMILIES = {
    "T5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 70, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2},
    ),
    "Bart": (
        "BartForConditionalGeneration",
        {
            "vocab_size": 70,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
        },
    ),
    "Bert": ("BertForMaskedLM", SMALL | HEADS),
    "Roberta": ("RobertaModel", SMALL | HEADS),
    "ModernBert": ("ModernBertModel", SMALL | HEADS | {"pad_token_id": 0}),
    "LlamaReward": ("LlamaForSequenceClassification", SMALL | HEADS | {"num_labels": 1}),
    "Qwen2Reward": (
        "Qwen2ForSequenceClassification",
        SMALL | HEADS | {"num_key_value_heads": 2, "num_labels": 1},
    ),
    "LlamaTokens": ("LlamaForTokenClassification", SMALL | HEADS),
    "LlamaEmbedding": ("LlamaModel", SMALL | HEADS),
}


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("T5", r"encoder-decoder model \(t5\).*decoder-only"),
        ("Bart", r"encoder-decoder model \(bart\).*decoder-only"),
        ("Bert", r"is an encoder \(bert\).*decoder-only"),
        ("Roberta", r"is an encoder \(roberta\).*decoder-only"),
        ("ModernBert", r"is an encoder \(modernbert\).*decoder-only"),
        ("LlamaReward", r"LlamaForSequenceClassification.*use the language model"),
        ("Qwen2Reward", r"Qwen2ForSequenceClassification.*use the language model"),
        ("LlamaTokens", r"LlamaForTokenClassification.*use the language model"),
        ("LlamaEmbedding", r"LlamaModel, a model without the head.*use the language model"),
    ],
)
def test_a_model_of_another_kind_is_refused(family, said, model_path, tmp_path):
    name, fields = FAMILIES[family]
    kind = getattr(transformers, name)
    path = saved(kind(kind.config_class(**fields)), model_path, tmp_path / family)
    refused(path, said)


def test_a_reward_head_is_known_by_its_weights(own):
    """Under the name of a language model, as some reward models are published."""
    tensors = load_file(own / "model.safetensors")
    tensors["score.weight"] = torch.ones(1, 48)
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    refused(own, r"rates or classifies \(score.weight\).*use the language model")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 70}),
        ("gpt_neox", SMALL | HEADS),
        ("gemma3_text", SMALL | HEADS | {"num_key_value_heads": 2, "head_dim": 8}),
        (
            "opt",
            {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 1} | HEADS,
        ),
        ("qwen3", SMALL | HEADS | {"num_key_value_heads": 2, "head_dim": 8}),
        ("bert", SMALL | HEADS | {"is_decoder": True}),
        ("bart", FAMILIES["Bart"][1] | {"is_decoder": True, "is_encoder_decoder": False}),
    ],
)
def test_decoders_of_every_family_are_taken(kind, fields, model_path, tmp_path):
    config = AutoConfig.for_model(kind, **fields)
    path = saved(AutoModelForCausalLM.from_config(config), model_path, tmp_path / "model")
    assert identify(Model(name=str(path))).weights


def test_a_decoder_saved_without_its_tied_head_is_taken(model_path, tmp_path):
    config = AutoConfig.for_model("llama", **SMALL, **HEADS, tie_word_embeddings=True)
    path = saved(transformers.LlamaModel(config), model_path, tmp_path / "model")
    assert identify(Model(name=str(path))).weights


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": None}, "no model_type.*add the one"),
        ({"model_type": "brand_new"}, "does not know its model_type brand_new.*use a model"),
        (
            {"model_type": "brand_new", "auto_map": {"AutoModelForCausalLM": "modeling_brand_new.Model"}},
            r"needs code of its own .*brand_new.*use one that transformers supports",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized.*gptq.*get the model in"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized.*fp8.*get the model in"),
        (
            {"text_config": {"quantization_config": {"quant_method": "awq"}}},
            "quantized.*awq.*get the model in",
        ),
        (
            {"transformers_weights": "other.safetensors"},
            "names other files.*other.safetensors.*save it again",
        ),
        ({"max_position_embeddings": "long"}, "max_position_embeddings = 'long'.*correct it"),
    ],
)
def test_a_config_that_cannot_work_is_refused(own, values, said):
    change_json(own / "config.json", **values)
    refused(own, said)


def test_code_of_its_own_beside_a_known_type_is_not_run_and_not_refused(own):
    change_json(own / "config.json", auto_map={"AutoModelForCausalLM": "modeling_mine.Model"})
    assert identify(Model(name=str(own)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "no JSON object but list"),
        ('"a"', "no JSON object but str"),
        ("{", "is not JSON"),
        ("", "is empty"),
    ],
)
def test_a_json_file_that_is_no_object_is_refused(own, name, content, said):
    (own / name).write_text(content)
    refused(own, f"{name} .*{said}.*get ")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"],
)
def test_a_git_lfs_pointer_is_named(own, name):
    (own / name).write_text(POINTER)
    refused(own, f"{name} is a Git LFS pointer.*git lfs pull")


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.999])
def test_weights_that_are_cut_off_are_named(own, kept):
    file = own / "model.safetensors"
    content = file.read_bytes()
    end = kept if isinstance(kept, int) else int(len(content) * kept)
    file.write_bytes(content[:end])
    refused(own, "model.safetensors (is empty|does not load: it is cut off).*get it again")


def test_a_shard_that_is_cut_off_or_absent_is_named(own):
    last = max(shard(own).values())
    content = (own / last).read_bytes()
    (own / last).write_bytes(content[:-9])
    refused(own, f"{last} does not load: it is cut off")
    (own / last).unlink()
    refused(own, f"not whole: its index names {last}")


@pytest.mark.parametrize("content", [b"not weights at all", b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_safetensors_file_is_named(own, content):
    (own / "model.safetensors").write_bytes(content)
    refused(own, "model.safetensors does not load: .*get it again")


def test_a_tensor_in_two_shards_is_refused(own):
    weight_map = shard(own)
    first, last = sorted(set(weight_map.values()))
    twice = load_file(own / first) | load_file(own / last)
    save_file(twice, own / last, {"format": "pt"})
    refused(own, "twice, in .*get the folder again")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32])
def test_quantized_weights_are_known_by_their_types(own, dtype):
    tensors = load_file(own / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    refused(own, f"quantized.*{name}.*get the model in")


def test_a_mask_of_whole_numbers_is_no_quantized_weight(own):
    tensors = load_file(own / "model.safetensors")
    tensors["model.layers.0.self_attn.bias"] = torch.ones(2, 2, dtype=torch.uint8)
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    assert identify(Model(name=str(own)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "can hold code: convert it"),
        ("model.q4.gguf", "GGUF.*in Hugging Face form"),
        ("consolidated.safetensors", "Mistral's own form"),
        ("tf_model.h5", "not PyTorch's"),
    ],
)
def test_weights_in_another_form_alone_are_named(own, name, said):
    (own / "model.safetensors").rename(own / name)
    refused(own, f"no model.safetensors .only {name}.*{said}")


def test_an_embedding_model_is_known_by_its_pooling(own):
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "models.Pooling"}]
    (own / "modules.json").write_text(json.dumps(modules))
    refused(own, "gives embeddings.*decoder-only")


@pytest.mark.parametrize(
    ("beside", "said"), [(None, "no tokenizer.json"), ("tekken.json", "only tekken.json")]
)
def test_a_model_without_a_tokenizer_is_named(own, beside, said):
    if beside:
        shutil.move(own / "tokenizer.json", own / beside)
    (own / "tokenizer.json").unlink(missing_ok=True)
    refused(own, said)


@pytest.mark.parametrize("more", [1, -3])
def test_a_config_with_other_rows_than_the_embedding_is_refused(own, more):
    rows = json.loads((own / "config.json").read_text())["vocab_size"]
    change_json(own / "config.json", vocab_size=rows + more)
    refused(own, f"vocab_size = {rows + more}, but .*embed_tokens.weight has {rows} rows")


def test_half_a_model_is_refused_when_it_is_loaded(own):
    """Fewer layers in the config than in the weights: transformers loads the first ones and goes on."""
    layers = json.loads((own / "config.json").read_text())["num_hidden_layers"]
    change_json(own / "config.json", num_hidden_layers=layers - 1)
    with pytest.raises(UserError, match=rf"hold model\.layers\.{layers - 1}\..*no place"):
        load(own, torch.float32, "cpu")
