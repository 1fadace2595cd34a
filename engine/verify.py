"""The parity gate of `engine verify`: are the cached log-probs what the model says, computed in another way?

Two engines, two builds of one engine, or two dtypes can differ by a tenth of a nat a token and more without a
word. So a sample of what is cached is scored again: by the trainer's own forward, always, in the dtype that
[train] asks for; and by the other backend, where it is installed. Every file's digest is taken anew, and the
token ids are checked where caches go wrong: BOS, EOS, and against the template's rendering of the dialogue.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import made_with, token_check
from engine.ids import share
from engine.integrity import examine
from engine.make import read_file, read_shard
from engine.models import Model
from engine.models.open import open_model, places
from engine.models.spec import ResolvedModel, spec_on, vllm_is_installed
from engine.plan import Run, plan
from engine.stage import Stage
from engine.text import Prompt
from engine.text.chat import stored_chat, stored_response
from engine.token_check import Scored
from engine.trust import code_arguments
from schemas.devices import cores
from schemas.dtypes import of_training
from schemas.errors import UserError
from schemas.fetching import nothing_fetched
from schemas.manifest import Marker, json_bytes, read_markers
from schemas.recipe import Recipe
from schemas.records import AGAIN, Damaged
from schemas.sections import Train, Verify
from schemas.store import Store
from schemas.tolerance import mean_gap

RECORD = "verify.json"
Row = dict[str, Any]  # of the table logprobs
_SHARDS = 8  # that the sample is taken from


@dataclass(frozen=True)
class Gap:
    """How far log-probs computed another `way` are from the cached ones, nat a token.

    `tolerance`: the largest mean that passes; of the trainer's way what the trainer takes at its first step.
    `multiplicative`: NeMo-RL's token_mult_prob_error, the mean of exp(|Δ|); it alarms at 1.05."""

    way: str
    tokens: int
    mean: float
    p99: float
    max: float
    multiplicative: float
    tolerance: float


@dataclass(frozen=True)
class Report:
    """The result. `ids`: what the token ids show, by name; `damaged`: files with another digest."""

    logprobs: str  # the folder
    rows: int
    gaps: list[Gap]
    ids: dict[str, int]
    files: int
    damaged: list[str]

    def problems(self) -> list[str]:
        """What is wrong, each as the part of a sentence; empty where all is as it should be."""
        problems: list[str] = []
        if self.damaged:
            problems.append(_damage_text(self.damaged))
        for gap in self.gaps:
            # Not `mean > tolerance`: NaN must not pass.
            if not gap.mean <= gap.tolerance:
                problems.append(
                    f"the mean gap is {gap.mean:.2g} nat a token, more than {gap.tolerance:g}, by {gap.way}"
                )
        if self.ids["double_bos"]:
            problems.append(f"{self.ids['double_bos']} prompts begin with two BOS")
        if self.ids["eos_within"]:
            problems.append(f"{self.ids['eos_within']} responses hold an end token before their end")
        if self.ids["not_as_rendered"]:
            problems.append(f"{self.ids['not_as_rendered']} rows are not the ids that the template renders")
        return problems


def _damage_text(damaged: Sequence[str]) -> str:
    return f"{len(damaged)} files are damaged, such as {damaged[0]}: {AGAIN}"


def check(store: Store, recipe: Recipe, both: bool, say: Callable[[str], None]) -> Report:
    """Score a sample again and look at every file; write what was found to verify.json and return it.

    `both`: also by the other backend, where it is installed. `say` is told what was found on the way. Raises
    UserError where there is nothing to verify."""
    config = recipe.sections.get("verify", Verify())
    assert isinstance(config, Verify)
    with nothing_fetched():
        run = plan(store, recipe)
    stage = next((stage for stage in run.stages if stage.name == "logprobs"), None)
    if stage is None or not run.folder(stage).exists():
        raise UserError(
            f"{store} has no log-probs of this recipe to verify; `engine status {store}` says what there is"
        )
    examined = examine(store)
    damaged = list(examined.damaged)
    for why in examined.damaged.values():
        say(why)
    say(f"digests: {examined.whole:,} of {examined.files:,} files are what their markers say")
    cached = run.models[stage.name]
    try:
        rows = _sample(run, stage, config.sample)
    except Damaged:
        raise UserError(f"{store} does not pass: {_damage_text(damaged)}") from None
    text = cached.open_text()
    ids = token_check.count(list(map(_as_scored, rows)), text)
    counts = ", ".join(f"{name} {count}" for name, count in ids.items())
    say(f"token ids of {len(rows):,} rows: {counts}")
    prompt = text.tokenizer.decode(rows[0]["prompt_ids"])
    response = text.tokenizer.decode(rows[0]["response_ids"])
    say("one of them as the model reads it, prompt and response:")
    say(f"  {prompt!r}")
    say(f"  {response!r}")
    report = Report(
        logprobs=run.folder(stage).name,
        rows=len(rows),
        gaps=_gaps(rows, cached, run.recipe, config.tolerance, both, say),
        ids=ids,
        files=examined.files,
        damaged=damaged,
    )
    record = asdict(report) | made_with.record(run, stage, say) | {"passed": not report.problems()}
    store.put(RECORD, json_bytes(record))
    return report


def _train_dtype(cached: ResolvedModel, recipe: Recipe) -> str:
    """What the trainer's forward will run in: train.dtype, where auto is the dtype of the cache."""
    train = recipe.sections.get("train", Train())
    assert isinstance(train, Train)
    return of_training(train.dtype, cached.spec.config.dtype)


def _sample(run: Run, stage: Stage, wanted: int) -> list[Row]:
    """Rows of logprobs: whole responses with all contexts, always the same ones, from shards evenly apart.

    Each with the prompt's `messages`, the response's `text`, and `sampled_ids` where it was sampled."""
    folder = run.folder(stage)
    markers = [marker for marker in read_markers(folder) if _has_logprobs(marker)]
    if not markers:
        raise UserError(f"{folder} has no log-probs yet: run `engine precompute` first")
    places_of_shards = {round(place) for place in np.linspace(0, len(markers) - 1, _SHARDS)}
    of_each = -(-wanted // len(places_of_shards))
    sample: list[Row] = []
    for place in sorted(places_of_shards):
        files = [file for file in markers[place].files if file.table == "logprobs"]
        rows = pa.concat_tables([read_file(folder, file) for file in files])
        responses = sorted(set(rows["response_id"].to_pylist()), key=_sampling_order)
        chosen = rows.filter(pc.is_in(rows["response_id"], pa.array(responses[:of_each])))
        sample += _with_origin(chosen, run, stage, markers[place].shard)
    return sample


def _with_origin(chosen: pa.Table, run: Run, stage: Stage, shard: int) -> list[Row]:
    """Rows of logprobs with the messages and the response that they were made of."""
    above = run.above(stage)
    prompts = read_shard(run, "prompts", shard, above).select(["prompt_id", "messages", "chat"])
    used = ["response_id", "text", "turn", "response_ids"]
    responses = read_shard(run, "responses", shard, above).select(used)
    messages_of = {row["prompt_id"]: _prompt_of(row) for row in prompts.to_pylist()}
    response_of = {row["response_id"]: row for row in responses.to_pylist()}
    rows: list[Row] = chosen.to_pylist()
    for row in rows:
        response = response_of[row["response_id"]]
        row["messages"] = messages_of[row["prompt_id"]]
        row["text"] = stored_response(response["text"], response["turn"])
        row["sampled_ids"] = response["response_ids"]
    return rows


def _prompt_of(row: Row) -> Prompt:
    return stored_chat(row["messages"], row["chat"])


def _as_scored(row: Row) -> Scored:
    """The row for the check of its ids."""
    whole_prompt = row["context"] == "plain" and row["truncated"] in (None, "response")
    from_text = row["sampled_ids"] is None and row["truncated"] is None
    return Scored(
        prompt_ids=row["prompt_ids"],
        response_ids=row["response_ids"],
        messages=row["messages"] if whole_prompt else None,
        response=row["text"] if from_text else None,
    )


def _has_logprobs(marker: Marker) -> bool:
    return any(file.table == "logprobs" for file in marker.files)


def _sampling_order(response_id: str) -> tuple[float, str]:
    return share(response_id), response_id


def _gaps(
    rows: Sequence[Row],
    cached: ResolvedModel,
    recipe: Recipe,
    wanted: float,
    both: bool,
    say: Callable[[str], None],
) -> list[Gap]:
    """For each other way of computing the log-probs how far they are from the cached ones.

    `wanted`: the largest mean gap that passes; 0: what is normal between two ways."""
    made_in = cached.spec.config.dtype
    dtype = _train_dtype(cached, recipe)
    device_type = places(spec_on(cached.spec.config, "hf"))[0].partition(":")[0]
    most = wanted or mean_gap(made_in, cached.spec.backend, dtype, device_type)
    gaps = [_gap(f"trainer ({dtype})", rows, _trainers_logprobs(rows, cached, dtype), most)]
    if not both:
        return gaps
    other = "vllm" if cached.spec.backend == "hf" else "hf"
    if other == "vllm" and not vllm_is_installed():
        say("vLLM is not installed here: the log-probs are compared with the trainer's forward alone")
        return gaps
    if other == "vllm" and cached.spec.config.quantization != "none":
        return gaps
    named = code_arguments(recipe.section("model").vllm) if other == "vllm" else []
    if named:
        say(f"[model.vllm] {named[0]} may name code for vLLM to load, so vLLM is not compared")
        return gaps
    # From the recipe's [model], since the spec of a model on hf has dropped what [model.vllm] says.
    model = replace(cached, spec=spec_on(recipe.section("model"), other))
    fitting = [row for row in rows if other == "hf" or _fits(row, model.positions)]
    if not fitting:
        say(
            "no row of the sample fits the other backend's positions: "
            "compared with the trainer's forward alone"
        )
        return gaps
    try:
        opened = open_model(model, places(model.spec)[0], cores())
        # Of the two ways one is vLLM's.
        most = wanted or mean_gap(made_in, "vllm", model.spec.config.dtype, device_type)
        gaps.append(_gap(f"{other} ({model.spec.config.dtype})", fitting, _logprobs(opened, fitting), most))
    except UserError as error:  # not every model that the one runs does the other
        say(f"{other} cannot score here, so it is not compared: {error}")
    return gaps


def _fits(row: Row, positions: int) -> bool:
    """True if vLLM can score the row: it wants room for one token more."""
    return not positions or len(row["prompt_ids"]) + len(row["response_ids"]) < positions


def _trainers_logprobs(rows: Sequence[Row], cached: ResolvedModel, dtype: str) -> list[np.ndarray]:
    """By the trainer's forward in a dtype: the one packed pass that both sides have."""
    from engine.models.hf import HF

    config = replace(cached.spec.config, dtype=dtype)
    spec = spec_on(config, "hf", cached.spec.batch_tokens)
    place = places(spec)[0]
    model = HF(replace(cached, spec=spec), place)
    return _logprobs(model, rows)


def _logprobs(model: Model, rows: Sequence[Row]) -> list[np.ndarray]:
    """The log-probs of each row's response tokens; closes the model, since the next one wants its memory."""
    prompts = [row["prompt_ids"] for row in rows]
    responses = [[row["response_ids"]] for row in rows]
    try:
        return [of_prompt[0] for of_prompt in model.logprobs(prompts, responses)]
    finally:
        model.close()


def _gap(way: str, rows: Sequence[Row], logps: Sequence[np.ndarray], tolerance: float) -> Gap:
    cached = np.concatenate([np.asarray(row["token_logps"], np.float32) for row in rows])
    gaps = np.abs(cached.astype(np.float64) - np.concatenate(logps))
    return Gap(
        way=way,
        tokens=len(gaps),
        mean=float(gaps.mean()),
        p99=float(np.quantile(gaps, 0.99)),
        max=float(gaps.max()),
        multiplicative=float(np.exp(gaps).mean()),
        tolerance=tolerance,
    )
