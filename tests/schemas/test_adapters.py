"""An adapter's folder as a model: what it is, what is refused, and the same numbers as PEFT's own."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.models.hf import HF
from engine.models.spec import ModelSpec, resolve
from engine.models.vllm.settings import engine_arguments
from schemas.adapters import base_of
from schemas.errors import UserError
from schemas.forward.load import read_weights
from schemas.identity import config_digest, identify, weights_digest
from schemas.reward_checks import REWARD
from schemas.sections import Model
from tests.adapters import logps_by, write_adapter
from tests.schemas.models import change_json, change_weights, copy_of

PROMPT, RESPONSE = [1, 9, 4, 17], [5, 30, 2]


@pytest.fixture(scope="module")
def written(model_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "lora"
    return write_adapter(model_path, path), path


@pytest.fixture
def own(written, tmp_path):
    return copy_of(written[1], tmp_path / "adapter")


def facts(path):
    return identify(Model(name=str(path))).facts()


def opened(path, dtype="float32"):
    return HF(resolve(ModelSpec(Model(name=str(path), dtype=dtype), "hf")), "cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"k_proj": 9}},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": ["v_proj"], "modules_to_save": ["norm"], "layers_to_transform": [1]},
    ],
    ids=["lora", "dora", "patterns", "expression", "whole modules"],
)
def test_its_log_probs_are_those_of_peft(model_path, tmp_path, settings):
    adapted = write_adapter(model_path, tmp_path / "own", **settings)
    (got,) = opened(tmp_path / "own").logprobs([PROMPT], [[RESPONSE]])[0]
    wanted = logps_by(adapted, PROMPT, RESPONSE)
    torch.testing.assert_close(torch.from_numpy(got), wanted, atol=1e-5, rtol=0)
    with adapted.disable_adapter():
        assert (wanted - logps_by(adapted, PROMPT, RESPONSE)).abs().max() > 1e-3, "it does something"


def test_in_another_dtype_it_is_the_merged_model_cast(written):
    _, path = written
    merged = read_weights(AutoModelForCausalLM, path, torch.float32, "cpu").state_dict()
    lowered = read_weights(AutoModelForCausalLM, path, torch.bfloat16, "cpu")
    assert lowered.dtype == torch.bfloat16
    assert all(weight.requires_grad for weight in lowered.parameters())
    for name, weight in lowered.state_dict().items():
        assert torch.equal(weight, merged[name].bfloat16()), name
    before = read_weights(AutoModelForCausalLM, base_of(path), torch.bfloat16, "cpu")
    buffers = zip(before.named_buffers(), lowered.named_buffers(), strict=True)
    for (name, buffer), (_, own) in buffers:
        assert own.dtype == buffer.dtype and torch.equal(own, buffer), name


def test_it_is_known_by_its_base_and_by_itself(own, model_path, tmp_path):
    base, before = facts(model_path), facts(own)
    assert base["weights"] != before["weights"] and base["config"] != before["config"]
    assert (base["tokenizer"], base["template"]) == (before["tokenizer"], before["template"])
    assert (weights_digest(own), config_digest(own)) == (before["weights"], before["config"])

    adapter = json.loads((own / "adapter_config.json").read_text())
    idle = {"peft_version": "9.9", "lora_dropout": 0.5, "target_modules": adapter["target_modules"][::-1]}
    change_json(own / "adapter_config.json", **idle)
    assert facts(own) == before
    change_json(own / "adapter_config.json", lora_alpha=8)
    assert facts(own)["config"] != before["config"]
    change_json(own / "adapter_config.json", lora_alpha=7)
    change_weights(own / "adapter_model.safetensors")
    changed = facts(own)
    assert changed["weights"] != before["weights"] and changed["config"] == before["config"]

    other = copy_of(model_path, tmp_path / "base")
    change_weights(other / "model.safetensors")
    change_json(own / "adapter_config.json", base_model_name_or_path=str(other))
    assert facts(own)["weights"] != changed["weights"]


def test_the_base_is_found_from_the_adapters_folder(own, model_path, monkeypatch, tmp_path):
    wanted = facts(own)
    copy_of(model_path, tmp_path / "the-base")
    for name in ("../the-base", str(tmp_path / "the-base")):
        change_json(own / "adapter_config.json", base_model_name_or_path=name)
        assert facts(own) == wanted
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    change_json(own / "adapter_config.json", base_model_name_or_path="../the-base")
    assert base_of(own) == tmp_path / "the-base"


def test_a_base_on_the_hub_is_asked_for_once(own, model_path, monkeypatch):
    asked = []
    monkeypatch.setattr("schemas.adapters.find", lambda *name: asked.append(name) or model_path)
    change_json(own / "adapter_config.json", base_model_name_or_path="acme/tiny-of-a-test", revision="v2")
    assert facts(own) == facts(own)
    assert asked == [("acme/tiny-of-a-test", "v2")]


def test_a_tokenizer_and_template_of_its_own_are_used(own, model_path):
    for file in model_path.iterdir():
        if file.name.startswith(("tokenizer", "special")) or file.suffix == ".jinja":
            shutil.copyfile(file, own / file.name)
    assert facts(own) == facts(own) and facts(own)["tokenizer"] == facts(model_path)["tokenizer"]
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<eos>{% endfor %}")
    change_json(own / "tokenizer_config.json", chat_template=None, padding_side="left")
    found = facts(own)
    assert found["template"] != facts(model_path)["template"]
    assert found["tokenizer"] != facts(model_path)["tokenizer"]
    identity = identify(Model(name=str(own)))
    assert (identity.path, identity.template_source, identity.positions) == (own, "model", 512)
    assert opened(own).text.tokenizer.padding_side == "left"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, r"peft_type is LOHA, and only LORA is known"),
        ({"peft_type": None}, r"peft_type is none"),
        ({"task_type": "SEQ_CLS"}, r"task_type is SEQ_CLS, which gives no log-probs"),
        ({"init_lora_weights": "pissa"}, r"began as pissa, which changes the base's own weights"),
        ({"megatron_config": {"a": 1}}, r"sets megatron_config .*which is not known here; merge the two"),
        ({"layer_replication": [[0, 2]]}, r"sets layer_replication"),
        ({"trainable_token_indices": [3]}, r"sets trainable_token_indices"),
        ({"something_new": 3}, r"sets something_new \(3\), which is not known here"),
        ({"r": "3"}, r"says r = '3'; expected a number from 1 up"),
        ({"bias": "some"}, r"bias = 'some'; expected none, all or lora_only"),
        ({"rank_pattern": {"(a+)+$": 3}}, r"rank_pattern = .*; expected such names as q_proj or"),
        ({"rank_pattern": {".?.?.?.?.?.?.?.?.?!": 3}}, r"rank_pattern"),
        ({"rank_pattern": {"(.|.)(.|.)(.|.)(.|.)!": 3}}, r"rank_pattern"),
        ({"rank_pattern": {"q_proj": 10**9}}, r"says r = 1,000,000,000 .*no tensor of it has more than 80"),
        ({"r": 10**9}, r"says r = 1,000,000,000"),
        ({"alpha_pattern": {"*q": 3}}, r"alpha_pattern"),
        ({"base_model_name_or_path": "a\0b"}, r"is an adapter \(LORA\) on a\x00b, which is not there"),
        ({"exclude_modules": "(x*)*y"}, r"exclude_modules .*in which one part repeats at most"),
        ({"base_model_name_or_path": None}, r"does not say which model the adapter is on: set base_model"),
        ({"base_model_name_or_path": "/nowhere/at-all"}, r"on /nowhere/at-all, which is not there: no model"),
        ({"base_model_name_or_path": "acme/base-7b"}, r"on acme/base-7b, which is not there: model 'acme"),
        (
            {"base_model_name_or_path": "."},
            r"adapter on .*adapter, which is an adapter itself: `trainer merge",
        ),
    ],
)
def test_what_its_settings_say_against_it(own, changes, said):
    change_json(own / "adapter_config.json", **changes)
    with pytest.raises(UserError, match=said):
        facts(own)


def test_values_of_every_kind_are_one_sentence(own):
    """Whatever stands at a key: the adapter is read as before, or refused."""
    for name in json.loads((own / "adapter_config.json").read_text()):
        for value in ([], -1, "x", [None], {"a": {}}, float("nan")):
            config = json.loads((own / "adapter_config.json").read_text())
            (own / "adapter_config.json").write_text(json.dumps(config | {name: value}))
            try:
                facts(own)
            except UserError as error:
                assert "\n" not in str(error)
            (own / "adapter_config.json").write_text(json.dumps(config))


def test_what_its_tensors_say_against_it(own):
    file = own / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    for changed, said in (
        ({name: torch.ones(3, 49)}, r"does not fit .*up_proj.lora_A.weight is \(3, 49\), .*for \(80, 48\)"),
        ({name: tensors[name].to(torch.int8)}, r"lora_A.weight \(I8\), which is no tensor of a LoRA adapter"),
        ({"model.norm.weight": torch.ones(48)}, r"holds model.norm.weight \(F32\), which is no tensor"),
    ):
        save_file(tensors | changed, file)
        with pytest.raises(UserError, match=said):
            facts(own)
    save_file({"base_model.model.model.norm.weight": torch.ones(48)}, file)
    with pytest.raises(UserError, match="holds no tensors of LoRA"):
        facts(own)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match="is cut off"):
        facts(own)
    file.unlink()
    with pytest.raises(UserError, match=r"has no adapter_model.safetensors: the adapter is not whole"):
        facts(own)
    torch.save(tensors, own / "adapter_model.bin")
    with pytest.raises(UserError, match=r"only adapter_model.bin, which can hold code\): load the adapter"):
        facts(own)


def test_what_only_loading_tells(own, model_path, tmp_path):
    file = own / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    fewer = {key: value for key, value in tensors.items() if key != name}
    elsewhere = name.replace("layers.1", "layers.7")
    for changed, said in (
        (
            fewer,
            r"is not whole: 1 tensors are missing by its settings, such as .*layers.1.mlp.up_proj.lora_B",
        ),
        (
            tensors | {elsewhere: tensors[name].clone()},
            r"it holds .*layers.7.mlp.up_proj.lora_B.*there is no place",
        ),
        (tensors | {name: tensors[name] * float("nan")}, r"does not fit its base .*NaN|broken"),
    ):
        save_file(changed, file)
        with pytest.raises(UserError, match=said):
            opened(own).logprobs([PROMPT], [[RESPONSE]])
    save_file(tensors, file)
    change_json(own / "adapter_config.json", r=4)
    with pytest.raises(UserError, match=r"does not fit its base .*size mismatch"):
        opened(own).logprobs([PROMPT], [[RESPONSE]])
    # The small model's head is its embedding.
    write_adapter(model_path, tmp_path / "head", target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"changes the embedding or the head .*which are one weight there"):
        opened(tmp_path / "head").logprobs([PROMPT], [[RESPONSE]])


def test_no_expression_of_its_settings_runs_over_the_names(own):
    """With it PEFT's own loader would not come to an end."""
    change_json(own / "adapter_config.json", target_modules=r"(\w*\.?)*(\w*\.?)*(\w*\.?)*!")
    (got,) = opened(own).logprobs([PROMPT], [[RESPONSE]])[0]
    assert len(got) == len(RESPONSE)


def test_an_adapter_is_no_reward_model(own):
    with pytest.raises(UserError, match=r"is an adapter \(LORA\) on .*not a whole model: merge the two"):
        identify(Model(name=str(own)), REWARD)


def test_vllm_is_not_given_the_base_in_its_place(own):
    model = resolve(ModelSpec(Model(name=str(own)), "vllm"))
    for look in (model.check_runs, lambda: engine_arguments(model, "cpu")):
        with pytest.raises(UserError, match=r"is an adapter, and vLLM is given whole models .*trainer merge"):
            look()


def test_without_peft_its_extra_is_named(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'pip install "prefmill\[peft\]"'):
        opened(own).logprobs([PROMPT], [[RESPONSE]])
