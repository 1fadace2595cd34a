"""A tokenizer is made from the files that count, and its ids fit the model before any work is done."""

import json

import pytest
from transformers import AutoTokenizer

from engine.tokenizer import check_tokenizer, check_tokens
from schemas.errors import UserError
from schemas.identity import identify
from schemas.sections import Model
from schemas.tokenizer import load_tokenizer
from tests.conftest import RECIPE, command, settings
from tests.schemas.models import change_json, copy_of

ROWS = 40


@pytest.fixture
def own(model_path, tmp_path):
    return copy_of(model_path, tmp_path / "model")


def look(path, **more):
    return identify(Model(name=str(path), **more))


def add_token(path, number, content, special):
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(token | {"normalized": False, "special": special})
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))


def rows_of(path):
    return json.loads((path / "config.json").read_text())["vocab_size"]


def test_it_gives_the_ids_of_the_folders_own_tokenizer_and_knows_its_folder(own, byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path / "bytes")
    for path in (own, tmp_path / "bytes"):
        loaded = load_tokenizer(path)
        plain = AutoTokenizer.from_pretrained(path)
        text = "the quick brown fox: 12 + 30 = 42"
        assert loaded(text).input_ids == plain(text).input_ids
        assert loaded.name_or_path == str(path)


def test_a_tokenizer_that_does_not_load_is_named_by_its_own_folder(own):
    (own / "tokenizer.json").write_text('{"model": "none"}')
    with pytest.raises(UserError, match=r"the tokenizer in .* does not load") as caught:
        load_tokenizer(own)
    assert str(own) in str(caught.value) and "prefmill-model-" not in str(caught.value)


def test_a_model_with_its_own_tokenizer_passes(own):
    check_tokenizer(load_tokenizer(own), look(own))


def test_a_token_of_text_beyond_the_embedding_is_refused(own):
    rows = rows_of(own)
    add_token(own, rows, "<sep>", special=False)
    with pytest.raises(
        UserError, match=rf"ids up to {rows} \('<sep>' is {rows}\), but the model has {rows} rows"
    ):
        check_tokenizer(load_tokenizer(own), look(own))


def test_a_special_token_beyond_it_is_refused_where_the_template_holds_it(own):
    rows = rows_of(own)
    add_token(own, rows, "<picture>", special=True)
    check_tokenizer(load_tokenizer(own), look(own))
    template = (own / "chat_template.jinja").read_text()
    (own / "chat_template.jinja").write_text("<picture>" + template)
    with pytest.raises(UserError, match=r"'<picture>' is .*take the tokenizer that belongs to the model"):
        check_tokenizer(load_tokenizer(own), look(own))


def test_an_end_of_text_beyond_it_is_refused(own):
    add_token(own, rows_of(own), "<over>", special=True)
    change_json(own / "tokenizer_config.json", eos_token="<over>")
    with pytest.raises(UserError, match="'<over>' is"):
        check_tokenizer(load_tokenizer(own), look(own))


def test_a_larger_vocabulary_than_the_models_is_refused(own, byte_tokenizer):
    check_tokens(byte_tokenizer, len(byte_tokenizer), look(own))
    with pytest.raises(UserError, match=rf"ids up to {len(byte_tokenizer) - 1} .*the model has {ROWS} rows"):
        check_tokens(byte_tokenizer, ROWS, look(own))


def test_engine_says_it_before_it_makes_anything(own, pairs_file, tmp_path):
    add_token(own, rows_of(own), "<sep>", special=False)
    run = tmp_path / "run"
    words = settings(prompts__source=pairs_file, prompts__shards=2, model__name=own)
    done = command("engine", "precompute", RECIPE, "-o", run, *words, code=1)
    assert "'<sep>' is" in done.stderr and "Traceback" not in done.stderr
    assert not list(run.rglob("*.parquet"))


@pytest.mark.parametrize("end", [99_999, "7"])
def test_an_end_token_that_the_model_does_not_have_is_refused_before_any_work(own, pairs_file, tmp_path, end):
    """Or one that is no number: taken for absent, responses would end with another."""
    change_json(own / "tokenizer_config.json", eos_token=None)
    change_json(own / "config.json", eos_token_id=None)
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    words = settings(prompts__source=pairs_file, prompts__shards=2, model__name=own)
    done = command("engine", "precompute", RECIPE, "-o", tmp_path / "run", *words, code=1)
    assert ("would end with the token 99999" in done.stderr) == (end == 99_999)
    assert ("eos_token_id is '7'" in done.stderr) == (end == "7")
