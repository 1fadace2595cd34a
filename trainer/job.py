"""Before the first step: what a recipe asks for, whether it can work, and the folder it is kept in.

The folder is train-<fingerprint>/, named by all that the result depends on: the same settings go on in it,
other settings make another one.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from schemas import dtypes, tolerance, versions
from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.fields import facts_of
from schemas.identity import config_digest, resolve, weights_digest
from schemas.manifest import Facts
from schemas.plans import read_plan
from schemas.quantization import NONE
from schemas.recipe import Recipe
from schemas.sections import Model, Train
from schemas.store import Store
from trainer import best, checkpoint, data, losses, samples, tracking
from trainer.lora import check as check_lora
from trainer.losses import Objective
from trainer.pairs import Pairs, open_pairs

_LIBRARIES = ("torch", "transformers")
# Keys of [train] that change what is kept or shown, or how much fits at once, but not what is learnt.
_NOT_FACTS = (
    "micro_batch_tokens",
    "eval_every",
    "save_every",
    "keep",
    "tolerance",
    "tensorboard",
    "timeout",
    "loss",
    "options",
    "gradient_checkpointing",
    "accept_other_dtype",
    "parallel",
    "shard_size",
    "reshard_after_forward",
    "compile",
    "deterministic",
    "report_to",
    "eval_samples",
    "eval_sample_tokens",
    "metric_for_best_model",
    "greater_is_better",
    "save_on_signal",
)
# Facts only where they differ from these, so that runs from before there were such keys keep their folders.
_WERE_ALWAYS = {
    "look_ahead": 1,
    "weights": "float32",
    "save_dtype": "auto",
    "reduce_dtype": "float32",
}
# The arithmetic of a pass in half precision, which was autocast over float32 weights once: what was begun in
# that is not gone on with in this. A float32 pass is what it was.
_PRECISION = "weights of the dtype"


@dataclass(frozen=True)
class Job:
    """A training run as a recipe asks for it: what it learns from what, and where it is kept."""

    run: Store
    folder: Store  # train-<fingerprint>/
    recipe: Recipe
    config: Train  # with dtype resolved
    objective: Objective
    pairs: Pairs
    source: Path  # the model it starts from
    facts: Facts
    steps: int

    @property
    def last(self) -> Path:
        """The checkpoint that it ends with."""
        return self.folder.local_path(checkpoint.name_of(self.steps))


def plan(run: Store, recipe: Recipe) -> Job:
    """The run that a recipe asks for. Reads digests, writes nothing.

    Raises UserError where the loss, the pairs and the model do not fit together."""
    recipe, _ = dtypes.resolved(recipe, run)
    config: Train = recipe.section("train")
    objective = losses.choose(config)
    pairs = open_pairs(run, objective.needs, f"train.loss = {objective.name}")
    config = with_dtype(config, pairs)
    check_precision(config, pairs)
    check_weights(config)
    check_lora(config, recipe.section("model"))
    _check_same_quantization(recipe.section("model"), pairs)
    source = resolve(recipe.section("model"))
    policy = {"weights": weights_digest(source), "config": config_digest(source)}
    _check_same_model(policy, pairs, source)
    steps = config.max_steps
    if steps <= 0:
        steps = config.epochs * data.steps_per_epoch(pairs, config.batch_size)
    facts = _facts(
        config=config,
        objective=objective,
        pairs=pairs,
        policy=policy,
        seed=recipe.seed,
    )
    return Job(
        run=run,
        folder=run.child(f"train-{fingerprint(facts)}").on_disk(),
        recipe=recipe,
        config=config,
        objective=objective,
        pairs=pairs,
        source=source,
        facts=facts,
        steps=steps,
    )


def with_dtype(config: Train, pairs: Pairs) -> Train:
    """The settings with train.dtype resolved: auto is the dtype that the cache was made in."""
    return replace(config, dtype=dtypes.of_training(config.dtype, pairs.facts["reference"]["dtype"]))


def precision_gap(config: Train, pairs: Pairs) -> str | None:
    """How the cache was made with another arithmetic than training will have; None where it was not."""
    reference = pairs.facts["reference"]
    cached = reference["dtype"]
    if cached != config.dtype:
        return f"the cache was made in {cached}, and training runs in {config.dtype}"
    if tolerance.is_mixed(cached, reference.get("backend", "hf"), config.dtype):
        return f"the cache was made by vLLM in {cached}, whose arithmetic is not the trainer's"
    return None


def check_weights(config: Train) -> None:
    """Raise UserError for weights in bfloat16 that would not be trained in it."""
    if config.weights == "float32":
        return
    if config.dtype != "bfloat16":
        raise UserError(
            f'train.weights = "bfloat16" and the forward pass runs in {config.dtype}: make the cache in '
            'bfloat16 (model.dtype), or set train.weights = "float32"'
        )
    if config.optimizer == "rmsprop":
        raise UserError(
            'train.weights = "bfloat16" goes with the optimizers adamw and adamw_8bit, which round at '
            'random; rmsprop does not: set train.optimizer = "adamw", or train.weights = "float32"'
        )


def check_precision(config: Train, pairs: Pairs) -> None:
    """Raise UserError where cache and policy would differ by rounding, unless the recipe accepts that."""
    gap = precision_gap(config, pairs)
    if gap is None or config.accept_other_dtype:
        return
    cached = pairs.facts["reference"]["dtype"]
    own = f"train in the cache's (train.dtype = auto, or {cached})"
    if cached not in ("float32", "bfloat16"):
        own = "make the cache in float32 or bfloat16 (model.dtype; `engine precompute` again)"
    elif cached == config.dtype:
        own = 'make the log-probs with logprobs.backend = "hf" (`engine precompute` again)'
    raise UserError(
        f"{gap}: every margin would begin some tenths of a nat wrong; {own}, or set "
        "train.accept_other_dtype = true, which prints the error at step 0"
    )


def _check_same_model(policy: dict[str, str], pairs: Pairs, source: Path) -> None:
    """Raise UserError where the cache was made with another model than the one to be trained."""
    reference = pairs.facts["reference"]
    for name, digest in policy.items():
        if reference[name] != digest:
            raise UserError(
                f"the cache was made with other {name}: {pairs.folder.name} has {name} {reference[name]}, "
                f"{source} has {digest}; run `engine precompute` again with this model, "
                "or point model.name to the one it was made with"
            )


def _check_same_quantization(model: Model, pairs: Pairs) -> None:
    """Raise UserError where the cache was made with weights that are rounded otherwise."""
    cached = pairs.facts["reference"].get("quantization", NONE)
    if cached != model.quantization:
        raise UserError(
            f'the cache was made with model.quantization = "{cached}", and the recipe says '
            f'"{model.quantization}": every margin would begin wrong; run `engine precompute` again with '
            f'this recipe, or set model.quantization = "{cached}"'
        )


def _facts(config: Train, objective: Objective, pairs: Pairs, policy: dict[str, str], seed: int) -> Facts:
    """What the result depends on: the name of the train folder."""
    kept = facts_of(config, leave_out=_NOT_FACTS)
    for name, value in _WERE_ALWAYS.items():
        if kept[name] == value:
            del kept[name]
    facts: Facts = {
        "pairs": pairs.folder.name,
        "policy": policy,
        "seed": seed,
        "train": kept,
        "loss": objective.facts(),
    }
    lora = losses.lora_of(config)
    if lora is not None:
        facts["lora"] = facts_of(lora)
    if config.dtype != "float32":
        facts["precision"] = _PRECISION
    # As JSON gives them back: tuples become lists.
    as_json: Facts = json.loads(json.dumps(facts))
    return as_json


def as_of_autocast(job: Job) -> Job | None:
    """The run under the name that it had while half precision was autocast; None where it is in float32."""
    facts = {name: value for name, value in job.facts.items() if name != "precision"}
    if facts == job.facts:
        return None
    return replace(job, facts=facts, folder=job.run.child(f"train-{fingerprint(facts)}").on_disk())


def check_watched(job: Job) -> None:
    """Raise UserError where a run cannot be watched as [train] asks for; a finished one is not asked."""
    tracking.check(job.config)
    samples.check(job.config, job.pairs)
    best.check(job.config, job.pairs)


def note_versions(job: Job, goes_on: bool) -> None:
    """Put on record which versions train; `goes_on`: after steps that are done."""
    versions.note(job.folder, versions.here(_LIBRARIES), goes_on=goes_on)


def version_remarks(job: Job) -> list[str]:
    """What was made with other versions than those here: the log-probs, and the steps that are done."""
    now = versions.here(_LIBRARIES)
    planned, _ = read_plan(job.run)
    lines: list[str] = []
    for stage in planned:
        others = versions.others(versions.read(job.run.child(stage.folder)), now)
        if stage.stage == "logprobs" and others:
            lines.append(
                f"{stage.folder} was made with {others}: whether cache and policy agree is seen before the "
                "first step"
            )
    others = versions.others(versions.read(job.folder), now)
    if others and checkpoint.steps(job.folder, job.steps):
        lines.append(f"{job.folder.name}: the steps that are done were made with {others}")
    return lines
