"""The training loop, read from top to bottom.

A step is a function of (weights, optimizer state, step number): the pairs by (seed, step), no dropout, no other randomness. So a run that
is killed and started again ends in the same bytes on the same number of ranks, and with other ranks in the same numbers up to rounding.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel, get_scheduler

from schemas.commit import commit_bytes, commit_json, fingerprint, locked, sweep
from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.identity import config_digest, resolve, weights_digest
from schemas.recipe import Recipe, dump
from schemas.sections import Train
from schemas.tolerance import mean_gap
from trainer import checkpoint, data, dist, losses, metrics
from trainer.data import Pair, Pairs
from trainer.dist import Ranks
from trainer.losses import Objective
from trainer.losses.side import Side
from trainer.model import backward, load, sides

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
# Keys of [train] that change what is kept or shown, or how much fits at once, but not what is learnt.
_NOT_FACTS = (
    "micro_batch_tokens",
    "eval_every",
    "save_every",
    "keep",
    "tolerance",
    "tensorboard",
    "loss",
    "options",
    "gradient_checkpointing",
)


def train(run: Path, recipe: Recipe, resume: bool = True) -> Path:
    """Trains the recipe's model on the run's pairs; returns the last checkpoint. See `trainer run --help`."""
    config: Train = recipe.section("train")
    with _on_every_rank():
        objective = losses.choose(config)
        pairs = data.open_pairs(run, objective.needs, f"train.loss = {objective.name}")
    source = resolve(recipe.section("model"))
    policy = {"weights": weights_digest(source), "config": config_digest(source)}
    _same_model(policy, pairs, source)
    total = (
        config.max_steps
        if config.max_steps > 0
        else config.epochs * data.steps_per_epoch(pairs, config.batch_size)
    )
    facts = _facts(config, objective, pairs, policy, recipe.seed)
    folder = run / f"train-{fingerprint(facts)}"
    if resume and (folder / "manifest.json").exists() and checkpoint.path_of(folder, total).exists():
        if dist.is_first():
            print(
                f"{folder}: finished already, {total} steps; another setting makes another folder, --no-resume starts this one again"
            )
        return checkpoint.path_of(folder, total)

    ranks = dist.start(recipe.section("model").device)
    with contextlib.ExitStack() as held:
        if ranks.first:
            held.enter_context(locked(folder, "trainer run"))
            _open(folder, facts, recipe, resume)
        ranks.wait()
        return _train(recipe, objective, pairs, folder, facts, source, total, ranks)


def _train(
    recipe: Recipe,
    objective: Objective,
    pairs: Pairs,
    folder: Path,
    facts: dict,
    source: Path,
    total: int,
    ranks: Ranks,
) -> Path:
    config: Train = recipe.section("train")
    start = max(checkpoint.steps(folder), default=0)
    begin = checkpoint.path_of(folder, start) if start else source
    try:
        model = load(begin, ranks.device, config.gradient_checkpointing)
    except UserError as error:
        raise UserError(f"{error}; {checkpoint.remedy(begin)}") if start else error from None
    optimizer = _optimizer(model, config)
    warmup = config.warmup_steps or round(config.warmup_ratio * total)
    scheduler = get_scheduler(
        SCHEDULES[config.schedule], optimizer, num_warmup_steps=warmup, num_training_steps=total
    )
    if start:
        checkpoint.restore(begin, optimizer, scheduler)
    log = metrics.Log(folder, start, total, config.tensorboard) if ranks.first else None
    if log:
        log.say(
            f"{folder.name}: {config.loss} on {pairs.folder.name}, {pairs.count('train'):,} pairs to train on, {pairs.count('test'):,} held out; "
            f"{total} steps of {config.batch_size} pairs{f', from step {start} on' if start else ''}"
        )

    stepping = Stepping(model, objective, config, ranks)
    batches = data.global_batches(pairs, config.batch_size, recipe.seed, start, config.look_ahead)
    begun = time.monotonic()
    try:
        for step in range(start + 1, total + 1):
            epoch, batch = next(batches)
            if step == 1:
                with _on_every_rank():
                    _agree(stepping, batch, pairs, log)
                _evaluate(stepping, pairs, 0, log)

            with _on_every_rank():
                totals, tokens = stepping.backward(batch)
                norm = torch.nn.utils.clip_grad_norm_(
                    model.parameters(), config.max_grad_norm or float("inf")
                )
                _finite(norm, step, batch)
            rate = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)

            if log:
                place = epoch + (
                    1 + (step - 1) % data.steps_per_epoch(pairs, config.batch_size)
                ) / data.steps_per_epoch(pairs, config.batch_size)
                log.step(
                    step,
                    {
                        "epoch": place,
                        **metrics.means(totals),
                        "grad_norm": norm.item(),
                        "learning_rate": rate,
                    },
                    tokens,
                )
            if step == total or (config.eval_every and step % config.eval_every == 0):
                _evaluate(stepping, pairs, step, log)
            if step == total or (config.save_every and step % config.save_every == 0):
                if ranks.first:
                    checkpoint.save(folder, step, model, optimizer, scheduler, source, config.keep)
                ranks.wait()
        last = checkpoint.path_of(folder, total)
        if log:
            commit_json(
                folder / "manifest.json",
                {
                    "facts": facts,
                    "steps": total,
                    "checkpoint": last.name,
                    "weights": weights_digest(last),
                    "metrics": _last(folder),
                },
            )
            log.say(
                f"{total - start} steps in {time.monotonic() - begun:.0f} s; policy: {last}; curves: {folder / 'metrics.jsonl'}"
            )
        ranks.wait()
    finally:
        batches.close()
        if log:
            log.close()
        dist.stop()
    return last


@dataclasses.dataclass(frozen=True)
class Stepping:
    """What every forward of a run shares."""

    model: PreTrainedModel
    objective: Objective
    config: Train
    ranks: Ranks

    def sides(self, part: list[Pair]) -> tuple[Side, Side]:
        with self.autocast():
            return sides(self.model, part, self.ranks.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def forward(self, part: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) losses, and the metrics' sums."""
        chosen, rejected = self.sides(part)
        found = self.objective(chosen, rejected)
        return found, metrics.sums(found, chosen, rejected, self.objective.beta)

    def micro_batches(self, batch: list[Pair]) -> list[list[Pair]]:
        """This rank's part of a global batch, in pieces."""
        return data.micro_batches(data.deal(batch, self.ranks.rank, self.ranks.world_size), self.budget)

    @property
    def budget(self) -> int:
        return batch_tokens(self.config.micro_batch_tokens, self.ranks.device.type)

    def backward(self, batch: list[Pair]) -> tuple[torch.Tensor, int]:
        """Gradients of the global batch's mean loss on every rank; the metrics' sums and the tokens of all ranks."""
        totals, bad = metrics.none(self.ranks.device), []
        for part in self.micro_batches(batch):
            fine = []
            with self.autocast():
                for found, chosen, rejected in backward(
                    self.model, part, self.ranks.device, self.objective, 1 / len(batch)
                ):
                    totals += metrics.sums(found, chosen, rejected, self.objective.beta)
                    fine += found.isfinite().tolist()
            bad += [pair.pair_id for pair, one in zip(part, fine, strict=True) if not one]
        self.ranks.sum(totals)
        # Every rank sees the same sum, so all of them stop here or none does.
        if not totals.isfinite().all():
            raise UserError(
                f"the loss of these pairs is not finite: {', '.join(sorted(self.ranks.gather(bad))[:20]) or 'unknown'}; look at them with "
                "`engine sql RUN \"select * from pairs where pair_id = '…'\"`; a lower train.learning_rate may help"
            )
        self.ranks.sum_gradients(self.model.parameters())
        return totals, sum(pair.tokens for pair in batch)


@contextlib.contextmanager
def _on_every_rank() -> Iterator[None]:
    """What is refused in here every rank refuses alike, so one of them says it."""
    try:
        yield
    except UserError as error:
        error.shared = True
        raise


def _same_model(policy: dict[str, str], pairs: Pairs, source: Path) -> None:
    reference = pairs.facts["reference"]
    for key, digest in policy.items():
        if reference[key] != digest:
            raise UserError(
                f"the cache was made with other {key}: {pairs.folder.name} has {key} {reference[key]}, {source} has {digest}; run `engine precompute` again "
                "with this model, or point model.name to the one it was made with"
            )


def _facts(config: Train, objective: Objective, pairs: Pairs, policy: dict[str, str], seed: int) -> dict:
    kept = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NOT_FACTS}
    if kept["look_ahead"] == 1:
        del kept["look_ahead"]  # so runs from before there was such a key keep their folders
    return json.loads(
        json.dumps(
            {
                "pairs": pairs.folder.name,
                "policy": policy,
                "seed": seed,
                "train": kept,
                "loss": objective.facts(),
            }
        )
    )


def _open(folder: Path, facts: dict, recipe: Recipe, resume: bool) -> None:
    folder.mkdir(exist_ok=True)
    sweep(folder)
    if not resume:
        (folder / "manifest.json").unlink(missing_ok=True)
        for step in checkpoint.steps(folder):
            checkpoint.remove(folder, step)
    commit_json(folder / "facts.json", facts)
    commit_bytes(folder / "recipe.toml", dump(recipe))


def _optimizer(model: PreTrainedModel, config: Train) -> torch.optim.Optimizer:
    matrices = [
        parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1
    ]
    vectors = [
        parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() <= 1
    ]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.learning_rate)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=tuple(config.betas), fused=True
    )  # a quarter of the time, on a CPU too


@torch.no_grad()
def _agree(stepping: Stepping, batch: list[Pair], pairs: Pairs, log: metrics.Log | None) -> None:
    """The proof, before the first update, that cache and policy are one model: the loss is what it would be if the policy were exactly the
    reference (log 2 for DPO), and the per-token gap is noise."""
    device = stepping.ranks.device
    # Sums of the loss found, of the loss by its law and of the gaps; pairs; tokens.
    totals, most = torch.zeros(5, dtype=torch.float64, device=device), 0.0
    for part in stepping.micro_batches(batch):
        chosen, rejected = stepping.sides(part)
        found, law = (
            stepping.objective(chosen, rejected),
            stepping.objective(chosen.at_start(), rejected.at_start()),
        )
        gaps = torch.cat(
            [part.token_logratios[part.mask.bool()] for part in (*chosen.parts(), *rejected.parts())]
        ).abs()
        totals += torch.stack(
            [x.double() for x in (found.sum(), law.sum(), gaps.sum())]
            + [torch.tensor(float(n), dtype=torch.float64, device=device) for n in (len(part), len(gaps))]
        )
        most = max(most, gaps.max().item())
    found, law, gap, pairs_seen, tokens = stepping.ranks.sum(totals).tolist()
    most = max(stepping.ranks.gather([most]))
    value, law, mean = found / pairs_seen, law / pairs_seen, gap / tokens
    tolerance = mean_gap(stepping.config.tolerance, stepping.config.dtype, pairs.facts["reference"]["dtype"])
    said = f"step 0: loss {value:.6f} (law: {law:.6f}); gap between cache and policy, nat a token: mean {mean:.2g}, largest {most:.2g}"
    if log:
        log.say(said)
    # Not `mean > tolerance`: NaN must not pass.
    if not mean <= tolerance:
        raise UserError(
            f"{said}, more than {tolerance:g}: cache and policy do not agree. They have the same weights, so the arithmetic differs (dtype of the cache "
            f"{pairs.facts['reference']['dtype']}, of training {stepping.config.dtype}; another torch or device?) or the shards in {pairs.folder} were changed; "
            f"`engine verify {pairs.folder.parent}` tells which; run `engine precompute` again in this dtype, or raise train.tolerance"
        )


@torch.no_grad()
def _evaluate(stepping: Stepping, pairs: Pairs, step: int, log: metrics.Log | None) -> None:
    """The metrics over the test split, written as eval_*."""
    if not pairs.count("test"):
        return
    totals = metrics.none(stepping.ranks.device)
    for batch in groups_of(data.held_out(pairs), stepping.config.batch_size * stepping.ranks.world_size):
        for part in stepping.micro_batches(batch):
            totals += stepping.forward(part)[1]
    values = metrics.means(stepping.ranks.sum(totals), "eval_")
    if log:
        log.write(step, values)
        log.say(
            f"test at step {step}: loss {values['eval_loss']:.4f}  accuracy {values['eval_rewards/accuracies']:.3f}  margin {values['eval_rewards/margins']:.4f}  "
            f"logps chosen {values['eval_logps/chosen']:.1f} rejected {values['eval_logps/rejected']:.1f}"
        )


def groups_of(pairs: Iterable[Pair], size: int) -> Iterable[list[Pair]]:
    """Lists of `size` pairs, the last one shorter."""
    group: list[Pair] = []
    for pair in pairs:
        group.append(pair)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _finite(norm: torch.Tensor, step: int, batch: list[Pair]) -> None:
    """The norm is of the summed gradients, so every rank finds the same."""
    if not norm.isfinite():
        shown = ", ".join(sorted(pair.pair_id for pair in batch)[:20])
        raise UserError(
            f"the gradient of step {step} is not finite; its pairs: {shown}{' …' if len(batch) > 20 else ''}"
        )


def _last(folder: Path) -> dict:
    """The last value of every metric."""
    found: dict = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found
