"""Nothing native is loaded for a config.json, and no pipe, device or endless file stops a command."""

import json
import os
import shutil
import threading
import time

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
import transformers.modeling_utils as modeling
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from transformers.integrations import hub_kernels

from schemas import plain_files, recipe
from schemas.errors import UserError
from schemas.extensions import included
from schemas.forward.load import load, read_weights
from schemas.identity import identify
from schemas.model_files import view
from schemas.sections import Model
from schemas.tokenizer import load_tokenizer
from tests.reliability.hostile_models import of_json

CODE = "kernels-community/anything"
NAMING = [
    {"_attn_implementation": CODE},
    {"attn_implementation": CODE},
    {"attn_implementation": {"": CODE}},
    {"_attn_implementation": f"paged|{CODE}@main:f"},
    {"_attn_implementation_internal": CODE},
    {"attn_implementation": "flash_attention_2"},  # transformers has its code from there as well
    {"experts_implementation": CODE},
    {"_experts_implementation": CODE},
    {"attribute_map": {"other": "_attn_implementation"}, "other": CODE},
    {"parts": {"attn_implementation": CODE, "parts": [{"_attn_implementation": CODE}]}},
]
SECONDS = 5.0


@pytest.fixture
def asked(monkeypatch):
    """What code was asked for: the package that fetches it is as good as installed."""
    names: list[str] = []

    def fetch(name, *args, **options):
        names.append(name)
        raise ValueError("it would be fetched now")

    for place in (hub_kernels, modeling):
        monkeypatch.setattr(place, "is_kernels_available", lambda *args: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", fetch)
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda *args, **options: False)
    return names


def test_no_config_chooses_native_code(model_path, tmp_path, trials, asked):
    """It loads all the same; neither does a reward model choose it, nor does what vLLM is given name it."""
    own = tmp_path / "own"
    shutil.copytree(model_path, own)
    rates = tmp_path / "rates"
    shutil.copytree(model_path, rates)
    sizes = {"vocab_size": 70, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_labels=1, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(rates)
    whole = {path: (path / "config.json").read_text() for path in (own, rates)}
    with trials("a config.json that names native code") as trial:
        for values in NAMING:
            with trial(values):
                for path in (own, rates):
                    (path / "config.json").write_text(whole[path])
                    of_json("config.json", **values)(path)
                    with view(path, ["config.json"]) as folder:
                        seen = (folder / "config.json").read_text()
                    assert "implementation" not in seen and "attribute_map" not in seen
                    if path == own:
                        model = load(path, torch.float32, "cpu")
                    else:
                        model = read_weights(AutoModelForSequenceClassification, path, torch.float32, "cpu")
                    assert CODE not in str(model.config.get_text_config()._attn_implementation)
                assert not asked


def test_what_a_config_says_of_plain_attention_stays(model_path, tmp_path):
    shutil.copytree(model_path, tmp_path / "own")
    for values in ({}, {"attn_implementation": "eager"}, {"_attn_implementation": "sdpa"}):
        of_json("config.json", **values)(tmp_path / "own")
        with view(tmp_path / "own", ["config.json", "model.safetensors"]) as folder:
            assert (folder / "config.json").is_symlink() and (folder / "model.safetensors").is_symlink()


def in_time(work):
    """What the work raised; it must not wait for anything."""
    raised: list[BaseException] = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits"
    return raised[0] if raised else None


def placed(file, what):
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a link to a pipe":
        os.mkfifo(file.with_name("pipe"))
        file.symlink_to("pipe")
    elif what == "a device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, plain_files.MOST_JSON + 1)


FILES = [
    *("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"),
    *("additional_chat_templates/x.jinja", "chat_template.json", "modules.json", "adapter_config.json"),
    "model.safetensors.index.json",
]
REFUSALS = {
    "a pipe": "a pipe, not a plain file",
    "a link to a pipe": "a pipe, not a plain file",
    "a device": "a device, not a plain file",
    "a file of 100 MB": "MiB",
}


def test_a_pipe_a_device_or_an_endless_file_in_a_model_folder_is_named(model_path, tmp_path, trials):
    with trials("a pipe, a device or an endless file in a model folder") as trial:
        for number, name in enumerate(FILES):
            for what, said in REFUSALS.items():
                if what == "a file of 100 MB" and name not in ("config.json", "chat_template.jinja"):
                    continue
                with trial(f"{name}: {what}"):
                    own = tmp_path / f"{number} {what}"
                    shutil.copytree(model_path, own)
                    placed(own / name, what)
                    error = in_time(lambda own=own: identify(Model(name=str(own))))
                    assert isinstance(error, UserError)
                    assert str(own / name) in str(error) and said in str(error)
        for name in ("model.safetensors", "tokenizer.json"):
            for what in ("a pipe", "a device"):
                with trial(f"{name}: {what}"):
                    own = tmp_path / f"{name} {what}"
                    shutil.copytree(model_path, own)
                    placed(own / name, what)
                    error = in_time(lambda own=own: identify(Model(name=str(own))))
                    assert isinstance(error, UserError) and str(own) in str(error)


def test_a_pipe_or_a_device_for_a_recipe_or_a_file_of_it_is_named(tmp_path, trials):
    readers = {
        "a recipe": recipe.load,
        "a prompt": lambda file: included("prompts", str(file), ".txt"),
        "SQL": lambda file: included("sql", str(file), ".sql"),
    }
    with trials("a pipe, a device or an endless file in place of a recipe's") as trial:
        for reader, read in readers.items():
            for number, what in enumerate(REFUSALS):
                with trial(f"{reader}: {what}"):
                    file = tmp_path / f"{reader} {number}" / "file"
                    placed(file, what)
                    error = in_time(lambda read=read, file=file: read(file))
                    assert isinstance(error, UserError) and str(file) in str(error)


def test_a_recipe_comes_through_a_pipe_of_the_shells(tmp_path):
    """`engine precompute <(…)`: its writer may be slower than its reader."""
    reading, writing = os.pipe()

    def write():
        time.sleep(0.2)
        os.write(writing, b"seed = 7\n[prompts]\n")
        os.close(writing)

    threading.Thread(target=write).start()
    try:
        assert recipe.load(f"/dev/fd/{reading}").seed == 7
    finally:
        os.close(reading)


def test_a_tokenizer_that_asks_for_code_of_its_own_says_what_helps(model_path, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(model_path, own)
    before = load_tokenizer(own).encode("How much?")
    asking = {"tokenizer_class": "Special", "auto_map": {"AutoTokenizer": ["special.Special", None]}}
    of_json("tokenizer_config.json", **asking)(own)
    with pytest.raises(UserError, match=r"auto_map.*set tokenizer_class to PreTrainedTokenizerFast"):
        load_tokenizer(own)
    settings = json.loads((own / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    del settings["auto_map"]
    (own / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(own).encode("How much?") == before
