"""The part of `speed.py` that begins with a raw file: to the first optimizer step, and to token ids."""

import json
import shutil
import statistics
import time
from pathlib import Path

from speed_rows import CORES, call, row_of
from speed_works import DIALOGUES, new_model, pairs_of

_TRL = Path(__file__).with_name("speed_trl.py")


class FirstStep:
    """From a raw file of `count` pairs to the first optimizer step, in whole processes.

    Both sides have their log-probs from an earlier run. Ours is `python -m pipelines.run`, which does the
    engine's and the trainer's half, to the end of one step. TRL's is a script that loads the file, builds its
    trainer and takes one step (speed_trl.py; it proves that it computed no log-prob). `raw`: the file is read
    and tokenised anew; `again`: all that either side keeps is there. Both have one core, or
    both have two."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.rounds = folder / "rounds"
        self.run = self.rounds / "round-1"
        self.count = count
        _write_raw(folder / "pairs.jsonl", count)
        new_model(
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 636,
            },
            folder / "model",
        )
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(
            f'[model]\nname = "{folder / "model"}"\n'
            f'[prompts]\nsource = ["{folder / "pairs.jsonl"}"]\nformat = "preference"\n'
            "[given]\n[logprobs]\n[pairs]\ntest_share = 0.0\n"
            "[train]\nbatch_size = 8\nmax_steps = 1\n"
        )

    def forget(self, what: str) -> None:
        """Remove what a side would find of an earlier run: its training; for `raw` all but the log-probs."""
        trainings = [*self.run.glob("train-*"), self.folder / "out"]
        for path in trainings:
            shutil.rmtree(path, ignore_errors=True)
        if what == "raw":
            shutil.rmtree(self.folder / "hf", ignore_errors=True)
            for stage in ("prompts", "given", "pairs"):
                for path in self.run.glob(f"{stage}-*"):
                    shutil.rmtree(path)

    def ours(self, cores: int) -> None:
        call("-m", "pipelines.run", self.recipe, "-o", self.rounds, cores=cores)

    def trl(self, cores: int, first: bool = False) -> None:
        options = ["--first"] if first else []
        call(_TRL, self.folder, *options, cores=cores)

    def logprobs_times(self) -> dict[Path, int]:
        """When each file of log-probs was written."""
        return {path: path.stat().st_mtime_ns for path in self.run.glob("logprobs-*/*.parquet")}

    def rows(self, rounds: int) -> list[dict]:
        self.ours(1)
        self.trl(1, first=True)
        kept = self.logprobs_times()
        rows = []
        for what, cores, label, goal in (
            ("raw", 1, "raw file to first step, log-probs cached", None),
            ("raw", 2, "the same, two cores", 2.5),
            ("again", 1, "the same with all cached, one core", None),
        ):
            if cores > len(CORES):
                continue
            times = self._times(what, cores, rounds)
            medians = {who: statistics.median(done) for who, done in times.items()}
            row = row_of(f"{label}: sooner than TRL", medians["trl"] / medians["ours"], goal, at_least=True)
            rows.append(row | {"seconds": {who: round(seconds, 1) for who, seconds in medians.items()}})
        assert self.logprobs_times() == kept, "log-probs were made anew"
        return rows

    def _times(self, what: str, cores: int, rounds: int) -> dict[str, list[float]]:
        """Seconds of each side, round after round, the sides in turn."""
        times: dict[str, list[float]] = {"ours": [], "trl": []}
        for _ in range(rounds):
            self.forget(what)
            for who, done in times.items():
                begun = time.perf_counter()
                getattr(self, who)(cores)
                done.append(time.perf_counter() - begun)
        return times


def _write_raw(path: Path, count: int) -> None:
    """Dialogues of one to three questions in TRL's form, in tokens about as long as hh-harmless.

    They are of the sandbox's words, which its tokenizer knows."""
    import random

    from pipelines.sandbox import world

    words = " ".join(row["prompt"] for row in world.prompts(1, 200)).split()
    draw = random.Random(0)

    def text(size: int) -> str:
        return " ".join(draw.choices(words, k=max(1, round(size / 1.2))))

    with open(path, "w") as file:
        for pair in pairs_of(DIALOGUES, count, 10):
            turns = draw.choice([1, 3, 5])
            prompt = [
                {"role": ("user", "assistant")[turn % 2], "content": text(len(pair.prompt_ids) / turns)}
                for turn in range(turns)
            ]
            chosen, rejected = (
                [{"role": "assistant", "content": text(len(ids)) + end}]
                for ids, end in ((pair.chosen_ids, "."), (pair.rejected_ids, "!"))
            )
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def importing(rounds: int, folder: Path) -> list[dict]:
    """Import and tokenise: our stages up to token ids, and TRL's loading and tokenising of the same file.

    Both in processes that have imported everything."""
    raw = FirstStep(folder, 3_000)
    seconds = {}
    for who in ("ours", "trl"):
        said = call(_TRL, folder, "--tokenise", who, rounds)
        seconds[who] = statistics.median(json.loads(said.splitlines()[-1]))
    row = row_of("import and tokenise: rows/s over TRL", seconds["trl"] / seconds["ours"], None)
    rate = raw.count / seconds["ours"]
    return [row | {"thousand_rows_per_second": round(rate / 1000, 1)}]
