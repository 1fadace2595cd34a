"""What is no reward model here is said in one sentence, while a run is planned."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from schemas.errors import UserError
from schemas.identity import identify
from schemas.reward_checks import REWARD, label_number, labels_of, positions_of
from schemas.sections import Model
from tests.engine.rewards import on_trunk
from tests.schemas.models import add_adapter, change_json, copy_of, saved

SMALL = {
    "vocab_size": 70,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def own(model_path, tmp_path):
    return on_trunk(model_path, tmp_path / "rm")


def refused(path, said):
    with pytest.raises(UserError, match=said) as caught:
        identify(Model(name=str(path)), REWARD)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message


def test_a_reward_model_is_one_and_no_language_model(own, model_path):
    assert identify(Model(name=str(own)), REWARD).weights
    with pytest.raises(UserError, match=r"LlamaForSequenceClassification.*use the language model"):
        identify(Model(name=str(own)))
    refused(model_path, r"is a LlamaForCausalLM, a language model, .*let it judge \(\[judge\] with model\)")


@pytest.mark.parametrize("family", ["Llama", "Bert", "Electra", "DistilBert"])
def test_heads_of_several_families_are_known(family, model_path, tmp_path):
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    assert identify(
        Model(name=str(saved(kind(kind.config_class(**SMALL)), model_path, tmp_path / "rm"))), REWARD
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"architectures": ["LlamaForRewardModelWithGating"], "auto_map": {"AutoModel": "own.py"}},
            r"LlamaForRewardModelWithGating of code of its own \(auto_map.*\[check\]",
        ),
        (
            {"architectures": ["LlamaForTokenClassification"]},
            r"is a LlamaForTokenClassification; use a model",
        ),
        ({"is_encoder_decoder": True}, r"encoder-decoder model \(llama\)"),
        ({"model_type": "nowhere"}, r"does not know its model_type nowhere"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"weights are quantized .*gptq"),
    ],
)
def test_what_its_config_says_against_it(own, changes, said):
    change_json(own / "config.json", **changes)
    refused(own, said)


def test_weights_without_a_head_are_refused_before_one_is_made_up(own):
    tensors = load_file(own / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    refused(own, r"hold no head that rates a text .*get the folder again")


def test_pickles_adapters_and_quantized_weights_are_refused(own, tmp_path):
    tensors = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    torch.save(tensors, own / "pytorch_model.bin")
    refused(own, r"only pytorch_model.bin, which can hold code")
    (own / "pytorch_model.bin").unlink()
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, own / "model.safetensors", {"format": "pt"})
    refused(own, r"weights are quantized \(model.layers.0.mlp.up_proj.weight is I8")
    add_adapter(tmp_path / "lora")
    with pytest.raises(UserError, match="is an adapter"):
        identify(Model(name=str(tmp_path / "lora")), REWARD)


def test_labels_are_as_the_config_has_them(own, tmp_path):
    assert labels_of({"id2label": {"1": "b", "0": "a", "10": "c"}}) == ["a", "b", "c"]
    assert labels_of({"num_labels": 3}) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert labels_of({}) == ["LABEL_0", "LABEL_1"], "transformers' own default"
    assert label_number("", ["only"], own) == 0
    assert label_number("1", ["1", "0"], own) == 0, "a name before a number"
    with pytest.raises(UserError, match="several logits of that name; give its number"):
        label_number("a", ["a", "a"], own)


@pytest.mark.parametrize(
    ("family", "wanted"), [("roberta", 512), ("xlm-roberta", 512), ("bert", 514), ("llama", 514)]
)
def test_positions_of_families_that_count_from_behind_the_padding(family, wanted):
    assert positions_of({"model_type": family, "pad_token_id": 1}, 514) == wanted
    assert positions_of({"model_type": family}, 0) == 0


def test_a_folder_under_its_other_name_is_the_same_model(own, tmp_path):
    again = copy_of(own, tmp_path / "again")
    assert identify(Model(name=str(again)), REWARD).facts() == identify(Model(name=str(own)), REWARD).facts()
