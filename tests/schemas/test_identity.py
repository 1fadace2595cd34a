"""A model is its weights, config, tokenizer, template and where its responses end; nothing else."""

import json
import shutil

import pytest

from schemas.identity import identify
from schemas.sections import Model


@pytest.fixture
def own(model_path, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(model_path, path)
    return path


def facts(path, **more):
    return identify(Model(name=str(path), **more)).facts()


@pytest.mark.parametrize(
    "name", ["optimizer.safetensors", "state.json", "README.md", "consolidated.safetensors"]
)
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
