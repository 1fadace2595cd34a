"""The card of exported pairs, README.md: what they are, what they were made from, how to load them."""

from collections.abc import Mapping

from engine.cells import number
from engine.table_files import RunFiles
from engine.views import views_of
from schemas.cards import literal, made_from, recipe_block
from schemas.recipe import load_of_run
from schemas.store import Store

_LOADING = {
    "trl": """\
```python
from datasets import load_from_disk
from trl import DPOTrainer


class Precomputed(DPOTrainer):
    \"\"\"Takes the token ids and the reference's log-probs as they are: no reference model runs.\"\"\"

    def _prepare_dataset(self, dataset, *rest):
        return dataset

    def _precompute_ref_logps(self, dataset, *rest):
        return dataset


data = load_from_disk("FOLDER")  # this one
# DPOConfig(precompute_ref_log_probs=True, max_length=None, ...)
trainer = Precomputed(model, args=config, train_dataset=data["train"], processing_class=tokenizer)
```
""",
    "hf": """\
```python
from datasets import load_dataset

data = load_dataset("parquet", data_dir="data")
```
""",
    "openrlhf": """\
```sh
python -m openrlhf.cli.train_dpo --dataset FOLDER/train.jsonl --apply_chat_template \\
  --chosen_key chosen --rejected_key rejected
```
""",
    "llama-factory": """\
```sh
llamafactory-cli train --stage dpo --dataset_dir FOLDER --dataset prefmill_train
```
""",
    "jsonl": """\
A line for each pair: prompt, chosen and rejected as turns of {role, content}, and what is known of it.
""",
}


def card_of(run: Store, form: str, counts: Mapping[str, int]) -> str:
    """The card in Markdown, with the lines that the hub reads in front."""
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    lines = [
        *_front(form, counts),
        "# Preference pairs",
        "",
        f"{sizes}; made by prefmill, exported as {form}.",
        "",
        "`chosen` is the better answer to `prompt`. Where they are there, `ref_chosen_logps` and",
        "`ref_rejected_logps` are the reference model's summed log-probs (nat) of the answers' tokens,",
        "`chosen_ids` and `rejected_ids`, behind `prompt_ids`.",
        "",
        "## Loading",
        "",
        _LOADING[form],
        "## Made from",
        "",
        *(f"- {line}" for line in made_from(run)),
        "",
        "## Scores",
        "",
        *_scores(run),
        "",
        "## Recipe",
        "",
        *recipe_block(load_of_run(run)),
        "",
    ]
    return "\n".join(lines)


def _front(form: str, counts: Mapping[str, int]) -> list[str]:
    """What the hub reads: the files of each split."""
    lines = ["---", "tags: [preference, dpo, prefmill]"]
    if form == "hf":
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in counts:
            lines += [f"  - split: {split}", f"    path: data/{split}-*"]
    return [*lines, "---", ""]


def _scores(run: Store) -> list[str]:
    """Each scorer: how many scores, and their mean."""
    rows = views_of(RunFiles(run).of_tables(["scores"]))["scores"].to_table(columns=["scorer", "score"])
    found = rows.group_by("scorer").aggregate([("score", "count"), ("score", "mean")]).sort_by("scorer")
    lines = ["| scorer | scores | mean |", "|---|---|---|"]
    for row in found.to_pylist():
        mean = "" if row["score_mean"] is None else number(row["score_mean"])
        lines.append(f"| {literal(row['scorer'])} | {row['score_count']:,} | {mean} |")
    return lines
