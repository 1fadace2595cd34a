"""Small real models and data for the tests. Nothing is a mock: users bring the same shapes, larger."""

import copy
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.table import pytest_terminal_summary, trials  # noqa: F401 (a hook and a fixture)
from tests.trees import Tree, differences, tree  # noqa: F401 (tests take `tree` from here)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two workers end at about the same time."""
    longest = (
        "test_readme",
        "test_vllm",
        "test_endpoint_run",
        "test_make",
        "test_make_crash",
        "test_processes",
        "test_rows",
        "test_ranks",
        "test_disk",
    )
    order = {stem: place for place, stem in enumerate(longest)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Remembered digests of a test run must not outlive it."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A Llama with random weights, a chat template of its own and a word-and-digit tokenizer."""
    from pipelines.sandbox.make import new_model, save

    path = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer, model = new_model(3, hidden_size=48, intermediate_size=80, num_hidden_layers=2)
    save(tokenizer, model, path)
    return path


@pytest.fixture(scope="session")
def other_model(model_path, tmp_path_factory) -> Path:
    """The same with other weights: a policy unlike its reference.

    If they were equal, a loss would have its value of step 0 whatever one computes."""
    import torch
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("policy")
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


@pytest.fixture
def byte_tokenizer(_byte_tokenizer):
    """The other kind that users bring: a byte-level BPE that adds BOS itself and has no chat template.

    A copy for each test, which may add tokens to it."""
    return copy.deepcopy(_byte_tokenizer)


@pytest.fixture(scope="session")
def _byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(
        ["the quick brown fox asks the user: what is the answer?\n\nAssistant:\nthe answer is the fox"] * 8,
        trainer,
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory) -> Path:
    """303 preference rows, gzipped JSON Lines."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for row in preferences(10, 303):
            file.write(json.dumps(row) + "\n")
    return path


def preferences(seed: int, count: int):
    """Preference rows whose sides differ in their manner, so any model can learn them in a few steps.

    The chosen response is the longer one."""
    import random

    from pipelines.sandbox import world

    draw = random.Random(seed)
    for _ in range(count):
        found = world.problem(draw)
        yield {
            "prompt": str(found),
            "chosen": world.write(found, found.steps(), 1),
            "rejected": world.write(found, found.steps(), 3),
        }


def settings(**values) -> list[str]:
    """section__key=value as --set arguments."""
    return [
        word for name, value in values.items() for word in ("--set", f"{name.replace('__', '.')}={value}")
    ]


def command(*words: object, code: int = 0, **kwargs) -> subprocess.CompletedProcess:
    """Runs `engine` or `trainer` as a user does; the output is in the failure's message."""
    module, *rest = map(str, words)
    done = subprocess.run(
        [sys.executable, "-m", f"{module}.cli", *rest],
        capture_output=True,
        text=True,
        cwd=kwargs.pop("cwd", ROOT),
        timeout=kwargs.pop("timeout", 300),
        **kwargs,
    )
    assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


RECIPE = ROOT / "pipelines" / "recipes" / "dpo.toml"


@pytest.fixture(scope="session")
def precompute_words(model_path, pairs_file):
    """The command line of a small precompute in five shards, less its -o."""
    return [
        "engine",
        "precompute",
        RECIPE,
        *settings(
            prompts__source=pairs_file, prompts__shards=5, model__name=model_path, pairs__test_share=0.1
        ),
    ]


@pytest.fixture(scope="session")
def made_run(tmp_path_factory, precompute_words) -> Path:
    """A finished run; tests read it and leave it as it is."""
    run = tmp_path_factory.mktemp("runs") / "made"
    command(*precompute_words, "-o", run)
    return run


RICH_RECIPE = """
[model]
[prompts]
shards = 2
[given]
[generate]
n = 1
max_tokens = 9
[logprobs]
contexts = ["plain", "quality"]
[prompt_gain]
[pairs]
baseline = "sample"
scored_by = ["prompt_gain", "given"]
test_share = 0.2
[train]
batch_size = 16
learning_rate = 3e-3
save_every = 0
"""


@pytest.fixture(scope="session")
def rich_run(tmp_path_factory, model_path) -> Path:
    """A finished run from whose one cache every loss can be trained; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("rich")
    (folder / "rich.toml").write_text(RICH_RECIPE)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(4, 50)))
    command(
        "engine",
        "precompute",
        folder / "rich.toml",
        "-o",
        folder / "run",
        *settings(prompts__source=folder / "rows.jsonl", model__name=model_path),
    )
    return folder / "run"


@pytest.fixture(scope="session")
def family(model_path, tmp_path_factory):
    """From a family's name to its folder, made when it is first asked for."""
    from transformers import AutoConfig

    from tests.trainer.families import save_family

    vocabulary = AutoConfig.from_pretrained(model_path).vocab_size
    made = {}

    def folder(name: str):
        if name not in made:
            made[name] = save_family(name, vocabulary, tmp_path_factory.mktemp("family") / name)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def caches(model_path, tmp_path_factory):
    """Caches to train from (tests/trainer/caches.py), by the model and the dtype they were made with."""
    from tests.trainer.caches import Caches

    return Caches(tmp_path_factory.mktemp("caches"), model_path)


@pytest.fixture(scope="session")
def two_ranks():
    """Two ranks on which functions are run (tests/trainer/ranks.py); they start with the first one."""
    from tests.trainer.ranks import RankPool

    pool = RankPool(2)
    yield pool
    pool.close()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """What two folders differ in, file by file: not all of their bytes."""
    if op == "==" and isinstance(left, Tree) and isinstance(right, Tree):
        return differences(left, right)
    return None
