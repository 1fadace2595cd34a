"""A model that chooses its rope's frequencies by the longest text of a pass gives numbers that do not depend
on what runs beside a text: longer ones are not run."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from engine.stages.reward import max_length
from schemas.errors import UserError
from schemas.forward.layout import pack
from schemas.forward.load import load
from schemas.forward.logps import decoder_and_head, token_logps
from schemas.rope import steady_positions
from schemas.sections import Reward, Sampling
from tests.engine.test_hf import open_hf
from trainer.samples import generate_greedily

ORIGINAL = 64


@pytest.fixture(scope="module")
def longrope(model_path, tmp_path_factory):
    """A tiny Phi-3 whose frequencies are others beyond 64 tokens."""
    folder = tmp_path_factory.mktemp("longrope") / "model"
    shutil.copytree(model_path, folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = Phi3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_factor": [1.5, 3.0, 8.0, 20.0],
        },
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data.mul_(8 if weight.dim() > 1 else 1)
    model.save_pretrained(folder)
    return folder


def texts() -> tuple[list[list[int]], list[list[list[int]]]]:
    draw = np.random.default_rng(5)
    prompts = [draw.integers(3, 40, length).tolist() for length in (3, 50, 20)]
    return prompts, [[draw.integers(3, 40, 9).tolist()] for _ in prompts]


def test_within_the_original_length_a_text_has_its_numbers_alone_and_beside_others(longrope):
    model = open_hf(longrope)
    assert model._resolved.positions == ORIGINAL and model._resolved.made_for == 512
    prompts, responses = texts()
    found = model.logprobs(prompts, responses)
    own = AutoModelForCausalLM.from_pretrained(longrope)
    for prompt, group, scored in zip(prompts, responses, found, strict=True):
        ids = torch.tensor([[*prompt, *group[0]]])
        with torch.no_grad():
            want = own(ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        want = want.gather(1, torch.tensor(group[0])[:, None])[:, 0]
        np.testing.assert_allclose(scored[0], want, atol=1e-4)


def test_a_longer_text_is_refused_by_the_pass_of_both_sides(longrope):
    prompts, responses = texts()
    with pytest.raises(UserError, match="rope is longrope: beyond 64 tokens"):
        open_hf(longrope).logprobs([*prompts, [5] * 100], [*responses, [[7, 8]]])
    decoder, head = decoder_and_head(load(longrope, torch.float32, "cpu"))
    token_logps(decoder, head, pack([([5] * 60, [[6] * 5])]))
    with pytest.raises(UserError, match="a text of 65 tokens"):
        token_logps(decoder, head, pack([([5], [[6]]), ([5] * 60, [[7], [6] * 6])]))


def test_a_sample_ends_before_its_frequencies_would_change(longrope):
    model = open_hf(longrope)
    prompts, _ = texts()
    sampling = Sampling(max_tokens=40)
    found = model.generate(prompts, [[1], [2], [3]], sampling)
    for prompt, seed, (sample,) in zip(prompts, (1, 2, 3), found, strict=True):
        assert len(prompt) + len(sample.ids) <= ORIGINAL
        ((alone,),) = model.generate([prompt], [[seed]], sampling)
        assert alone.ids == sample.ids


def test_an_answer_in_training_ends_before_its_frequencies_would_change(longrope):
    model = load(longrope, torch.float32, "cpu")
    prompts, _ = texts()
    for prompt in prompts:
        (answer,) = generate_greedily(model, [prompt], 40, [10**6])
        assert len(answer) == min(40, ORIGINAL - len(prompt))
    assert {len(answer) for answer in generate_greedily(model, prompts, 40, [10**6])} == {ORIGINAL - 50}


@pytest.mark.parametrize(("asked", "limit"), [(0, ORIGINAL), (20, 20), (500, ORIGINAL)])
def test_a_reward_model_is_given_no_text_that_would_change_those_beside_it(longrope, asked, limit):
    assert max_length(Reward(max_length=asked), open_hf(longrope)._resolved) == limit


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 512}, 0),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}}, 0),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 512}, 512),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 64}, 64),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "yarn"}, "original_max_position_embeddings": 64},
            64,
        ),
        ({"rope_parameters": {"rope_type": "longrope"}, "max_position_embeddings": 512}, 512),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 32},
                    "sliding_attention": {"rope_type": "default"},
                },
                "max_position_embeddings": 512,
            },
            32,
        ),
    ],
)
def test_the_limit_by_config_json(config, limit):
    assert steady_positions(config) == limit
