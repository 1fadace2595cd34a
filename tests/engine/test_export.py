"""Pairs for other tools: all of them, as each tool reads them; TRL trains on them with our loss."""

import copy
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.commands.export import _FORMS
from engine.export.forms import FORMS
from engine.export.rows import exported
from engine.views import views
from schemas.cards import literal
from schemas.errors import UserError
from schemas.sections import Train
from schemas.store import open_store
from tests.conftest import command
from tests.trainer.forward import policy_in, sides_of
from trainer import data
from trainer.losses import choose
from trainer.pairs import open_pairs


@pytest.fixture(scope="module")
def pairs(made_run):
    return views(open_store(made_run))["pairs"].to_table().to_pylist()


@pytest.fixture(scope="module")
def folders(made_run, tmp_path_factory):
    """A folder for each form."""
    place = tmp_path_factory.mktemp("exported")
    pytest.importorskip("datasets")
    for form in _FORMS:
        said = command("engine", "export", made_run, "--to", form, "-o", place / form).stdout
        assert f"pairs as {form}" in said
    return place


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_pair_is_in_every_form_in_its_split(folders, pairs):
    assert set(FORMS) == set(_FORMS)
    want = {split: sum(pair["split"] == split for pair in pairs) for split in ("train", "test")}
    assert all(want.values())
    for split, count in want.items():
        for form in ("jsonl", "openrlhf", "llama-factory"):
            assert len(lines(folders / form / f"{split}.jsonl")) == count
        (path,) = (folders / "hf" / "data").glob(f"{split}-00000-of-00001.parquet")
        assert pq.read_metadata(path).num_rows == count
    assert {path.name for path in (folders / "trl").iterdir()} == {"README.md", "dataset_dict.json", *want}
    assert not (folders / "trl" / "parts").exists()


def test_a_line_says_what_the_pair_is(folders, pairs):
    by_id = {pair["pair_id"]: pair for pair in pairs}
    found = [*lines(folders / "jsonl" / "train.jsonl"), *lines(folders / "jsonl" / "test.jsonl")]
    assert {row["pair_id"] for row in found} == by_id.keys()
    for row, whole in zip(found, lines(folders / "openrlhf" / "train.jsonl"), strict=False):
        pair = by_id[row["pair_id"]]
        assert row["prompt"][-1] == {"role": "user", "content": pair["prompt"]}
        assert row["chosen"] == [{"role": "assistant", "content": pair["chosen"]}]
        assert whole == {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
        assert row["ref_chosen_logps"] == pytest.approx(sum(pair["ref_chosen_token_logps"]), abs=1e-4)
        assert row["chosen_ids"] == pair["chosen_ids"] and row["chosen_score"] == pair["chosen_score"]


def test_llama_factory_is_told_of_its_files(folders):
    info = json.loads((folders / "llama-factory" / "dataset_info.json").read_text())
    for name, said in info.items():
        assert name.startswith("prefmill_") and said["ranking"] and said["formatting"] == "sharegpt"
        row = lines(folders / "llama-factory" / said["file_name"])[0]
        assert {said["columns"][name] for name in ("messages", "chosen", "rejected")} == row.keys()
        assert row["chosen"][said["tags"]["role_tag"]] == said["tags"]["assistant_tag"]


def test_the_card_says_how_to_load_it_and_what_it_is_made_of(folders, made_run):
    for form in _FORMS:
        card = (folders / form / "README.md").read_text()
        assert (
            card.startswith("---\n")
            and "## Loading" in card
            and "[prompts]" in card
            and "| `given` |" in card
        )
        for folder in made_run.glob("*-*"):
            assert f"folder {folder.name}" in card
    assert "path: data/train-*" in (folders / "hf" / "README.md").read_text()


def test_trl_trains_on_it_with_our_loss(folders, made_run, other_model, model_path, tmp_path):
    """By the lines of the card; the loss of a batch, of a policy that is not the reference, is ours."""
    pytest.importorskip("trl")
    from datasets import load_from_disk

    from tests.trainer.test_trl import config_of

    card = (folders / "trl" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("\n\ndata = ")[0]
    names: dict = {}
    exec(code, names)
    rows = load_from_disk(str(folders / "trl"))["train"]
    batch = next(data.global_batches(open_pairs(made_run), 12, seed=4))[1]
    places = {pair_id: place for place, pair_id in enumerate(rows["pair_id"])}
    rows = rows.select([places[pair.pair_id] for pair in batch])
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.eos_token
    config = config_of(len(batch), tmp_path, max_steps=1, beta=0.3)
    model = AutoModelForCausalLM.from_pretrained(other_model, dtype=torch.float32)
    trainer = names["Precomputed"](
        copy.deepcopy(model), args=config, train_dataset=rows, processing_class=tokenizer
    )
    theirs = trainer.train().training_loss
    sides = sides_of(policy_in(other_model).policy.model, batch)
    ours = choose(Train(options={"dpo": {"beta": 0.3}}))(*sides).mean().item()
    assert theirs == pytest.approx(ours, abs=1e-5) and abs(ours - np.log(2)) > 1e-3


def test_what_cannot_be_exported_is_said(made_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    done = command("engine", "export", made_run, "--to", "jsonl", "-o", tmp_path / "full", code=1)
    assert "has files in it" in done.stderr and (tmp_path / "full" / "mine.txt").read_text() == "kept"
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    for path in (*run.glob("pairs-*/00001.json"), *run.glob("pairs-*/manifest.json")):
        path.unlink()
    done = command("engine", "export", run, "--to", "jsonl", "-o", tmp_path / "new", code=1)
    assert "not all of" in done.stderr and not (tmp_path / "new").exists()


def test_a_damaged_shard_ends_it_and_nothing_is_written(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    path = sorted(run.glob("pairs-*/*.pairs.parquet"))[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = command("engine", "export", run, "--to", "hf", "-o", tmp_path / "new", code=1)
    assert path.name in done.stderr and not (tmp_path / "new").exists()


def test_calls_of_tools_go_where_there_is_room_for_them(made_run, monkeypatch, tmp_path):
    from dataclasses import replace

    one = next(exported(open_store(made_run)))
    called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    calling = replace(one, chosen=called, tools='[{"name": "f"}]')
    for form in ("jsonl", "openrlhf", "llama-factory"):
        (tmp_path / form).mkdir()
        FORMS[form]([calling], tmp_path / form)
        assert "tool_calls" in (tmp_path / form / f"{one.split}.jsonl").read_text()
    (tmp_path / "hf").mkdir()
    with pytest.raises(UserError, match="more than a text"):
        FORMS["hf"]([calling], tmp_path / "hf")


def test_pairs_without_log_probs_are_not_for_trl(made_run, tmp_path):
    from dataclasses import replace

    one = next(exported(open_store(made_run)))
    bare = replace(one, pair=one.pair | {"ref_chosen_logps": None})
    with pytest.raises(UserError, match=r"has no ref_chosen_logps.*add \[logprobs\]"):
        FORMS["trl"]([bare], tmp_path)


def test_a_name_from_outside_is_no_markup_in_the_card():
    assert literal("a`|<b>\x1b\n") == "`a'/<b>\\x1b\\n`"
