"""TRL's side of `speed.py` where it begins with a raw file.

    python tests/bench/speed_trl.py FOLDER [--first]
    python tests/bench/speed_trl.py FOLDER --tokenise ours|trl ROUNDS

- The first form runs to TRL's first optimizer step; --first makes TRL keep log-probs.
- The second form prints the seconds from the file to token ids, of each round.
- The log-probs lie in TRL's own cache file beside the data set. It is kept aside and put back, so data and
  tokens can be forgotten alone.
"""

import json
import shutil
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])


def load():
    from datasets import load_dataset

    return load_dataset(
        "json", data_files=str(FOLDER / "pairs.jsonl"), split="train", cache_dir=str(FOLDER / "hf")
    )


def first_step(first: bool) -> None:
    import torch
    import trl
    from datasets import Dataset

    torch.set_num_threads(1)

    def zeros(self, model, inputs):
        """Log-probs for TRL to keep. Their values do not matter here, and computing them takes a minute."""
        return inputs["input_ids"].new_zeros(len(inputs["input_ids"]), dtype=torch.float32).chunk(2)

    def computed(*_):
        sys.exit("TRL computed log-probs that it should have found")

    trl.DPOTrainer.compute_ref_log_probs = zeros if first else computed
    data = load()
    place, kept = Path(data.cache_files[0]["filename"]).parent, FOLDER / "kept"
    for file in kept.glob("*.arrow"):
        shutil.copy(file, place)
    config = trl.DPOConfig(
        output_dir=str(FOLDER / "out"),
        max_steps=1,
        per_device_train_batch_size=8,
        precompute_ref_batch_size=8,
        precompute_ref_log_probs=True,
        report_to=[],
        save_strategy="no",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_length=None,
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(str(FOLDER / "model"), args=config, train_dataset=data)
    if first:
        kept.mkdir()
        for file in place.glob("*.arrow"):
            if "ref_chosen_logps" in Dataset.from_file(str(file)).column_names:
                shutil.copy(file, kept)
    trainer.train()


def tokenise(who: str, rounds: int) -> list[float]:
    once = (_tokenise_trl if who == "trl" else _tokenise_ours)()
    seconds = []
    for _ in range(rounds):
        for folder in ("hf", "run"):
            shutil.rmtree(FOLDER / folder, ignore_errors=True)
        begun = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - begun)
    return seconds


def _tokenise_trl():
    import trl
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    config = trl.DPOConfig(output_dir=str(FOLDER / "out"), max_length=None, use_cpu=True, bf16=False)
    prepare = trl.DPOTrainer._prepare_dataset  # imported here, before the time is taken
    load()
    return lambda: prepare(_Bare(tokenizer), load(), tokenizer, config, "train")


def _tokenise_ours():
    from engine.make import batch_of, make
    from engine.models.open import open_model
    from engine.opened import opened
    from engine.plan import plan
    from engine.scan import scan
    from engine.stages import STAGES
    from engine.stages.logprobs import max_length, tokenise
    from schemas.recipe import load as load_recipe

    recipe = load_recipe(FOLDER / "recipe.toml", [])
    planned = plan(FOLDER / "run", recipe)
    model = planned.models["logprobs"]
    text = open_model(model, "cpu", 1).text
    config = recipe.section("logprobs")

    def once() -> None:
        run = plan(FOLDER / "run", recipe)
        with opened(run):
            scan(run, set(range(run.shards)), lambda done: None)
            for shard in range(run.shards):
                make(run, shard, run.stages[:2], lambda stage: None, lambda stage, marker: None)
                batch = batch_of(run, STAGES["logprobs"], shard)
                tokenise(batch, text, max_length(config, model.positions), config)

    return once


class _Bare:
    """What TRL's `_prepare_dataset` asks of its trainer."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_vlm = False


if __name__ == "__main__":
    if "--tokenise" in sys.argv:
        print(json.dumps(tokenise(sys.argv[-2], int(sys.argv[-1]))))
    else:
        first_step("--first" in sys.argv)
