"""`engine verify`: the parity gate. Are the cached log-probs what the model says, computed in another way?

Two engines, two builds of one engine, or two dtypes can differ by a tenth of a nat a token and more without a word (pitfalls). So a sample of
what is cached is scored again: by the trainer's own forward, always, in the dtype that [train] asks for; and by the other backend, where it is
there. Every file's digest is taken anew, and the token ids are looked at where caches go wrong: BOS, EOS, and the border between prompt and response.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import polars as pl
import pyarrow as pa

from engine.ids import share
from engine.models import Uses, backend, open_model, places
from engine.models import use as use_of
from engine.stage import Run, plan, read_file
from engine.stages import logprobs
from engine.text import Text
from schemas.commit import commit_json
from schemas.devices import cores
from schemas.errors import UserError
from schemas.identity import identify
from schemas.manifest import read_markers, read_plan, verify
from schemas.recipe import Recipe
from schemas.sections import Train, Verify
from schemas.tolerance import mean_gap

_SHARDS = 8  # that the sample is taken from


def check(path: Path, recipe: Recipe, both: bool = True) -> None:
    """Prints what was found, writes it to RUN/verify.json, and raises UserError where it is not as it should be."""
    config: Verify = recipe.sections.get("verify", Verify())
    run = plan(path, recipe)
    stage = next((stage for stage in run.stages if stage.name == "logprobs"), None)
    if stage is None or not run.folder(stage).is_dir():
        raise UserError(
            f"{path} has no log-probs of this recipe to verify; `engine status {path}` says what there is"
        )
    files, damaged = _digests(path)
    click.echo(f"digests: {files - len(damaged):,} of {files:,} files are what their markers say")
    rows = _sample(run, stage, config.sample)
    text = Text(
        identify(recipe.section("model")).path,
        identify(recipe.section("model")).template_text,
        recipe.section("model").date,
    )
    ids = _ids(rows, text)
    click.echo(
        f"token ids of {len(rows):,} rows: " + ", ".join(f"{name} {count}" for name, count in ids.items())
    )
    gaps = _gaps(rows, recipe, both)
    _print(gaps)
    train: Train = recipe.sections.get("train", Train())
    tolerance = mean_gap(config.tolerance, recipe.section("model").dtype, train.dtype)
    worst = max(gap["mean"] for gap in gaps)
    wrong = [f"{len(damaged)} files are damaged, such as {damaged[0]}"] if damaged else []
    wrong += (
        [f"the mean gap is {worst:.2g} nat a token, more than {tolerance:g}"]
        if not worst <= tolerance
        else []
    )
    wrong += [f"{ids['double_bos']} prompts begin with two BOS"] if ids["double_bos"] else []
    wrong += (
        [f"{ids['eos_within']} responses hold an end token before their end"] if ids["eos_within"] else []
    )
    commit_json(
        path / "verify.json",
        {
            "logprobs": run.folder(stage).name,
            "rows": len(rows),
            "tolerance": tolerance,
            "gaps": gaps,
            "ids": ids,
            "files": files,
            "damaged": damaged,
            "passed": not wrong,
        },
    )
    if wrong:
        raise UserError(
            f"{path} does not pass: {'; '.join(wrong)} (all of it in {path / 'verify.json'}); make the log-probs in the trainer's own way (logprobs.backend = hf, "
            "model.dtype = float32), or raise verify.tolerance if such a gap is what this dtype gives"
        )
    click.echo(
        f"passed: mean gap at most {worst:.2g} nat a token (tolerance {tolerance:g}); recorded in {path / 'verify.json'}"
    )


def _digests(path: Path) -> tuple[int, list[str]]:
    """Every file of every folder of the plan, hashed anew: how many, and those that are not what they should be."""
    files, damaged = 0, []
    for stage in read_plan(path)[0]:
        for marker in read_markers(path / stage.folder) if (path / stage.folder).is_dir() else []:
            for file in marker.files:
                files += 1
                try:
                    verify(path / stage.folder, file, afresh=True)
                except UserError:
                    damaged.append(f"{stage.folder}/{file.name}")
    return files, damaged


def _sample(run: Run, stage, wanted: int) -> list[dict]:
    """Rows of logprobs: whole responses with all their contexts, always the same ones, from shards that lie evenly apart."""
    markers = [
        marker
        for marker in read_markers(run.folder(stage))
        if any(file.table == "logprobs" for file in marker.files)
    ]
    if not markers:
        raise UserError(f"{run.folder(stage)} has no log-probs yet: run `engine precompute` first")
    chosen = [
        markers[number]
        for number in sorted({round(place) for place in np.linspace(0, len(markers) - 1, _SHARDS)})
    ]
    tables = []
    for marker in chosen:
        rows = pa.concat_tables(
            read_file(run.folder(stage), file) for file in marker.files if file.table == "logprobs"
        )
        first = sorted(
            set(rows["response_id"].to_pylist()), key=lambda identity: (share(identity), identity)
        )[: -(-wanted // len(chosen))]
        tables.append(rows.filter(pa.compute.is_in(rows["response_id"], pa.array(first))))
    return pa.concat_tables(tables).to_pylist()


def _ids(rows: list[dict], text: Text) -> dict[str, int]:
    """How often the token ids show what goes wrong in caches, and what is merely worth knowing."""
    bos, found = (
        text.tokenizer.bos_token_id,
        Counter(bos=0, double_bos=0, eos_at_end=0, eos_within=0, border_merges=0),
    )
    for row in rows:
        prompt, response = row["prompt_ids"], row["response_ids"]
        found["bos"] += bos is not None and prompt[:1] == [bos]
        found["double_bos"] += bos is not None and prompt[:2] == [bos, bos]
        found["eos_at_end"] += response[-1] in text.stop_ids
        found["eos_within"] += any(token in text.stop_ids for token in response[:-1])
        # Where text across the border would be merged into one token: kept apart here, and a trainer that tokenises both together would differ.
        joined = text.tokenizer.decode(prompt[-8:] + response[:8])
        together = text.tokenizer(joined, add_special_tokens=False).input_ids
        found["border_merges"] += len(together) < len(prompt[-8:] + response[:8])
    return dict(found)


def _gaps(rows: list[dict], recipe: Recipe, both: bool) -> list[dict]:
    """For each other way of computing them how far the log-probs lie from the cached ones, nat a token."""
    model, cached = recipe.section("model"), recipe.section("logprobs").backend
    want = [np.asarray(row["token_logps"], np.float32) for row in rows]
    prompts, responses = [row["prompt_ids"] for row in rows], [[row["response_ids"]] for row in rows]
    found = [
        _gap(
            f"trainer ({recipe.sections.get('train', Train()).dtype})",
            want,
            _trainers(prompts, responses, recipe),
        )
    ]
    if not both:
        return found
    other = "vllm" if cached == "hf" else "hf"
    try:
        use = use_of(model, backend(replace(model, backend=other)))
    except UserError:
        click.echo("vLLM is not installed here: the log-probs are compared with the trainer's forward alone")
        return found
    fits = [
        number
        for number in range(len(rows))
        if not use.positions
        or other == "hf"
        or len(prompts[number]) + len(responses[number][0]) < use.positions
    ]
    if not fits:
        click.echo(
            "no row of the sample fits the other backend's positions: compared with the trainer's forward alone"
        )
        return found
    opened = open_model(use, places(use)[0], cores(), lambda done: None, None)
    try:
        logps = opened.logprobs([prompts[number] for number in fits], [responses[number] for number in fits])
    finally:
        opened.close()
    return [
        *found,
        _gap(f"{other} ({model.dtype})", [want[number] for number in fits], [group[0] for group in logps]),
    ]


def _trainers(prompts: list, responses: list, recipe: Recipe) -> list[np.ndarray]:
    """The trainer's forward: weights in float32, lowered by autocast where [train] says bfloat16, the packed pass that it shares with the engine."""
    import torch

    from engine.models.hf import HF

    model = HF(
        logprobs.uses(
            Recipe(
                recipe.sections
                | {
                    "model": replace(recipe.section("model"), dtype="float32"),
                    "logprobs": replace(recipe.section("logprobs"), backend="hf"),
                }
            )
        ),
        places(Uses(recipe.section("model"), "hf"))[0],
    )
    try:
        with torch.autocast(
            torch.device(model._device).type,
            torch.bfloat16,
            enabled=recipe.sections.get("train", Train()).dtype == "bfloat16",
        ):
            return [group[0] for group in model.logprobs(prompts, responses)]
    finally:
        model.close()  # the other backend wants the memory


def _gap(way: str, want: list[np.ndarray], got: list[np.ndarray]) -> dict:
    """`multiplicative`: NeMo-RL's token_mult_prob_error, the mean of exp(|Δ|); 1.05 is where it alarms."""
    gaps = np.abs(np.concatenate(want).astype(np.float64) - np.concatenate(got))
    return {
        "way": way,
        "tokens": len(gaps),
        "mean": float(gaps.mean()),
        "p99": float(np.quantile(gaps, 0.99)),
        "max": float(gaps.max()),
        "multiplicative": float(np.exp(gaps).mean()),
    }


def _print(gaps: list[dict]) -> None:
    shown = [
        {
            "cached against": gap["way"],
            "tokens": gap["tokens"],
            **{name: f"{gap[name]:.2g}" for name in ("mean", "p99", "max")},
            "mean exp|Δ|": f"{gap['multiplicative']:.6f}",
        }
        for gap in gaps
    ]
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=40,
        tbl_width_chars=120,
    ):
        click.echo(pl.DataFrame(shown))
