"""No model folder runs anything, eats the memory or ends in a traceback; one sentence names it, at once."""

import resource
import shutil
import time

import pytest
import torch

from engine.models.hf import HF
from engine.models.spec import ModelSpec, resolve
from schemas.errors import UserError
from schemas.forward.load import load
from schemas.sections import Model
from tests.reliability.hostile_models import ANYTHING, REFUSED

MOST_SECONDS = 20.0
MOST_MEMORY = 1 << 30
PROMPT = [{"role": "user", "content": "1 + 1?"}]


def opened(path):
    """What `engine precompute` does with a model: its digests, its tokenizer, its weights, numbers of it."""
    model = HF(resolve(ModelSpec(Model(name=str(path)), "hf")), "cpu")
    ids = model.text.responses([PROMPT], [["2."]])
    prompts = model.text.prompts([PROMPT])
    assert not isinstance(ids[0][0], Exception) and not isinstance(prompts[0], Exception)
    return model.logprobs(prompts, ids)[0][0].tolist()


def try_folder(path, spoil, whole, refused):
    """Spoil a copy and open it: a sentence that names it, and nothing run; or what the whole one gives."""
    shutil.copytree(whole, path)
    spoil(path)
    begin = time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        given = opened(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
        given = None
    assert given is None or not refused, "it was opened"
    if refused:  # and what the trainer does with it
        with pytest.raises(UserError, match=str(path)):
            resolve(ModelSpec(Model(name=str(path)), "hf"))
            load(path, torch.float32, "cpu")
            HF(resolve(ModelSpec(Model(name=str(path)), "hf")), "cpu").text.prompts([PROMPT])
    assert not (path / "ran").exists()
    assert time.monotonic() - begin < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < MOST_MEMORY
    shutil.rmtree(path)
    return given


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_hostile_model_folder_is_refused_with_its_name(every, model_path, tmp_path, trials):
    with trials("a model folder with something hostile in it") as trial:
        for number, what in enumerate(list(REFUSED)[::every]):
            with trial(what):
                try_folder(tmp_path / str(number), REFUSED[what], model_path, refused=True)


@pytest.mark.parametrize("every", [40, pytest.param(1, marks=pytest.mark.long)])
def test_a_value_of_any_kind_in_a_models_files_is_refused_or_does_no_harm(
    every, model_path, tmp_path, trials
):
    with trials("a value of a wrong kind in a model's files") as trial:
        for number, what in enumerate(list(ANYTHING)[::every]):
            with trial(what):
                try_folder(tmp_path / str(number), ANYTHING[what], model_path, refused=False)
