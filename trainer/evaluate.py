"""`trainer eval`: a policy on the held-out pairs, and how far it has gone from the reference.

Drift is the mean log-ratio log π − log ref of a response; `mean_logratio` is taken over both sides. Where the
responses are the reference's own samples (as [generate]'s are), its negative estimates KL(ref‖π) at no cost,
biased only by the choice of pairs among them. On responses from elsewhere it says how far they were pushed
and is no divergence. KL(π‖ref) would need samples of the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from schemas.adapters import ADAPTER, base_of, is_adapter
from schemas.checkpoints import check_as_model
from schemas.errors import UserError
from schemas.identity import resolve, weights_digest
from schemas.manifest import FACTS, RECIPE
from schemas.object_store import is_address
from schemas.recipe import Recipe, load_of_run
from schemas.sections import Model, Train
from schemas.store import Store, open_store
from schemas.trainings import record
from trainer import adapter_files, checkpoint, dist, losses, metrics
from trainer.dist import Ranks
from trainer.job import with_dtype
from trainer.lora import check as check_lora
from trainer.losses import Objective
from trainer.opening import open_policy
from trainer.pairs import Pairs, open_pairs
from trainer.parallel import Parallel, shard_size
from trainer.step import HeldOut, Stepper, held_out

_CONFIG = "config.json"  # of a model folder
# What is measured beside the metrics of training, as a mean over the pairs.
DRIFT = (
    "mean_logratio",
    "drift/chosen",
    "drift/rejected",
    "drift/chosen_per_token",
    "drift/rejected_per_token",
    "length/prompt",
    "length/chosen",
    "length/rejected",
    "length/chosen_is_longer",
)


def recipe_of(run: Store, policy: Path | None, settings: Sequence[str]) -> Recipe:
    """The recipe that a policy was trained by, where it is in a train folder; else the run's."""
    candidates: list[Path] = []
    if policy:
        candidates = [policy, policy.parent]
    for folder in candidates:
        store = open_store(folder)
        if store.exists(RECIPE) and store.exists(FACTS):
            return load_of_run(store, settings)
    recipe = load_of_run(run, settings)
    return Recipe({"train": Train(), **recipe.sections}, recipe.seed)


def folder_of(policy: Path) -> Path:
    """The model folder meant: a train folder stands for its last checkpoint. Raises UserError for neither."""
    store = open_store(policy)
    if is_address(str(policy)) and not store.exists(FACTS):
        return _fetched(policy, store)
    if store.exists(_CONFIG) or is_adapter(policy):
        return policy
    if not store.exists(FACTS):
        raise UserError(f"{policy} is no model folder (it has no config.json) and no train folder")
    steps = checkpoint.steps(store, _last_step(store))
    if not steps:
        raise UserError(f"{policy} has no checkpoint yet")
    store.local_path(FACTS)  # beside it, where it says what an adapter was trained on
    return store.local_path(checkpoint.name_of(steps[-1]))


def _fetched(policy: Path, store: Store) -> Path:
    """A local copy of a model folder on object storage, with the facts of the train folder that it is in."""
    if not (store.exists(_CONFIG) or store.exists(ADAPTER)) or not is_address(str(policy.parent)):
        raise UserError(f"{store} is no model folder (it has no config.json) and no train folder")
    above = open_store(policy.parent)
    above.local_path(FACTS)
    return above.local_path(policy.name)


def _last_step(folder: Store) -> int | None:
    """The last step of a train folder's run; None where it is not finished."""
    steps = (record.manifest(folder) or {}).get("steps")
    return steps if isinstance(steps, int) else None


def evaluate(run: Store, recipe: Recipe, policy: Path) -> dict[str, float]:
    """Metrics of a policy over the test split.

    Those of training under their names; log-ratio and drift in nat, lengths in tokens, the share of pairs
    whose chosen response is the longer one, and the number of pairs. Raises UserError where the pairs do not
    fit the loss or none is held out."""
    with _measured(run, recipe, policy) as (ranks, parts):
        totals = metrics.zero_sums(ranks.device)
        drift = torch.zeros(len(DRIFT), dtype=torch.float64, device=ranks.device)
        for part in parts:
            totals += part.columns.sum(1)
            drift += _drift_sums(part)
        totals = ranks.sum(totals)
        drift = ranks.sum(drift)
    if not drift.isfinite().all():
        raise UserError(f"the drift of {policy} from the reference is not finite: measure another checkpoint")
    count = totals[-1].item()
    values = metrics.means(totals)
    values |= zip(DRIFT, (drift / count).tolist(), strict=True)
    values["pairs"] = count
    return values


def by_pair(run: Store, recipe: Recipe, policy: Path) -> Iterator[dict[str, object]]:
    """Each pair of the test split, in one process: `pair_id`, and `chosen` and `rejected`: the log-ratios
    log π − log ref of its two responses, nat. Raises UserError as `evaluate` does."""
    with _measured(run, recipe, policy) as (_, parts):
        for part in parts:
            chosen, rejected = part.chosen.logratios.tolist(), part.rejected.logratios.tolist()
            for pair, of_chosen, of_rejected in zip(part.pairs, chosen, rejected, strict=True):
                yield {"pair_id": pair.pair_id, "chosen": of_chosen, "rejected": of_rejected}


@contextmanager
def _measured(run: Store, recipe: Recipe, policy: Path) -> Iterator[tuple[Ranks, Iterator[HeldOut]]]:
    """The ranks, and this rank's part of the test split under the policy. Raises UserError."""
    config: Train = recipe.section("train")
    objective = losses.choose(config)
    pairs = _held_out_pairs(run, objective)
    config = with_dtype(config, pairs)
    model = recipe.sections.get("model", Model())
    assert isinstance(model, Model)
    ranks = dist.start(model.device, config.timeout)
    try:
        shard_size(config, ranks)  # refused before anything is read
        ranks.from_first(lambda: _check_whole(policy))
        config = replace(config, gradient_checkpointing="false", weights="float32")
        with dist.connected(ranks):
            stepper = Stepper(_open(policy, config, ranks, model), objective, config, ranks)
            yield ranks, held_out(stepper, pairs)
    finally:
        dist.stop()


def _open(policy: Path, config: Train, ranks: Ranks, model: Model) -> Parallel:
    """The policy in a folder: a whole model, or a checkpoint of [train.lora], put on its base.

    Not merged, so that it is what was trained, to the last bit."""
    if not adapter_files.is_checkpoint(policy):
        return open_policy(policy, config, ranks)
    check_lora(config, model)
    adapter, of_base = adapter_files.of_checkpoint(policy)
    base = resolve(of_base)
    expected = adapter_files.trained_on(policy)
    if expected is not None and weights_digest(base) != expected:
        raise UserError(
            f"{policy} is an adapter on {base}, whose weights are not those that it was trained on: put them "
            "back"
        )
    return open_policy(base, config, ranks, adapter, model.quantization)


def _check_whole(policy: Path) -> None:
    """Raise UserError where the policy is a damaged checkpoint: another policy would be measured.

    An adapter's base may be one as well."""
    if is_adapter(policy):
        check_as_model(base_of(policy))
    folder = open_store(policy.absolute().parent)
    step = checkpoint.step_of(policy.name)
    if step is None or not folder.exists(FACTS):
        check_as_model(policy)
        return
    found = _damage(folder, step)
    if found is None:
        return
    remedy = "run the same `trainer run` again, which makes it again"
    whole = [
        other for other in checkpoint.steps(folder, _last_step(folder)) if _damage(folder, other) is None
    ]
    if whole and whole[-1] > step:
        others = ", ".join(map(checkpoint.name_of, whole))
        remedy = f"measure another one ({others}), or train again with --no-resume"
    raise UserError(f"{policy} is damaged: {found}; {remedy}")


def _damage(folder: Store, step: int) -> str | None:
    return checkpoint.damage(folder, step, record.weights(folder, step), afresh=False)


def _held_out_pairs(run: Store, objective: Objective) -> Pairs:
    """The run's pairs with what the loss needs. Raises UserError, with the way out that there is here."""
    open_pairs(run)  # first report what is wrong whichever loss is chosen
    try:
        pairs = open_pairs(run, objective.needs, f"train.loss = {objective.name}")
    except UserError as error:
        if not objective.needs:
            raise
        raise UserError(
            f"{error}; or measure this policy by another loss, as with --set train.loss=dpo: "
            "all but `loss` is the same"
        ) from None
    if not pairs.count("test"):
        raise UserError(
            f"{pairs.folder} holds no pair out: set pairs.test_share and run `engine precompute` again "
            "(only the pairs are made anew)"
        )
    return pairs


def _drift_sums(part: HeldOut) -> torch.Tensor:
    """(len(DRIFT),) float64: the sum over the pairs of each of DRIFT."""
    chosen = part.chosen
    rejected = part.rejected
    device = chosen.token_logps.device
    prompt_lengths = [float(len(pair.prompt_ids)) for pair in part.pairs]
    columns = (
        (chosen.logratios + rejected.logratios) / 2,
        chosen.logratios,
        rejected.logratios,
        chosen.mean_logratios,
        rejected.mean_logratios,
        torch.tensor(prompt_lengths, device=device),
        chosen.lengths,
        rejected.lengths,
        chosen.lengths > rejected.lengths,
    )
    return torch.stack([column.double().sum() for column in columns])
