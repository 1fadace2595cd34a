"""`trainer eval`: a policy on the held-out pairs, and how far it has gone from the reference.

Drift is the mean log-ratio log π − log ref of a response; `mean_logratio` is taken over both sides. Where the responses are the reference's own samples
(as [generate]'s are) its negative estimates KL(ref‖π), free of charge, as far as choosing pairs among them has not bent it. On responses from
elsewhere it says how far they were pushed and is no divergence; KL(π‖ref) would need samples of the policy.
"""

from pathlib import Path

import torch

from schemas.errors import UserError
from schemas.recipe import Recipe, load
from schemas.sections import Model, Train
from trainer import checkpoint, data, dist, losses, metrics
from trainer.model import load as load_model
from trainer.train import Stepping, groups_of

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


def recipe_of(run: Path, policy: Path | None, settings: tuple[str, ...]) -> Recipe:
    """The recipe a policy was trained by, where it lies in a train folder; else the run's."""
    for folder in (policy, policy.parent) if policy else ():
        if (folder / "recipe.toml").exists() and (folder / "facts.json").exists():
            return load(folder / "recipe.toml", settings)
    recipe = load(run / "recipe.toml", settings)
    return Recipe({"train": Train()} | recipe.sections, recipe.seed)


def folder_of(policy: Path) -> Path:
    """The model folder meant: a train folder stands for its last checkpoint."""
    if (policy / "facts.json").exists() and not (policy / "config.json").exists():
        done = checkpoint.steps(policy)
        if not done:
            raise UserError(f"{policy} has no checkpoint yet")
        return checkpoint.path_of(policy, done[-1])
    if not (policy / "config.json").exists():
        raise UserError(f"{policy} is no model folder (it has no config.json) and no train folder")
    return policy


@torch.no_grad()
def evaluate(run: Path, recipe: Recipe, policy: Path) -> dict[str, float]:
    """Metrics over the test split: those of training under their names, log-ratio and drift in nat, lengths in tokens, the share of pairs whose
    chosen response is the longer, and the number of pairs."""
    config: Train = recipe.section("train")
    objective = losses.choose(config)
    data.open_pairs(run)
    try:
        pairs = data.open_pairs(run, objective.needs, f"train.loss = {objective.name}")
    except UserError as error:
        raise (
            UserError(
                f"{error}; or measure this policy by another loss, as with --set train.loss=dpo: all but `loss` is the same"
            )
            if objective.needs
            else error
        ) from None
    if not pairs.count("test"):
        raise UserError(
            f"{pairs.folder} holds no pair out: set pairs.test_share and run `engine precompute` again (only the pairs are made anew)"
        )
    ranks = dist.start(recipe.sections.get("model", Model()).device)
    try:
        stepping = Stepping(load_model(policy, ranks.device, False), objective, config, ranks)
        totals = torch.zeros(len(metrics.NAMES) + 1, dtype=torch.float64, device=ranks.device)
        drift = torch.zeros(len(DRIFT), dtype=torch.float64, device=ranks.device)
        for batch in groups_of(data.held_out(pairs), config.batch_size * ranks.world_size):
            for part in stepping.micro_batches(batch):
                chosen, rejected = stepping.sides(part)
                totals += metrics.sums(
                    stepping.objective(chosen, rejected), chosen, rejected, stepping.objective.beta
                )
                prompts = torch.tensor([float(len(pair.prompt_ids)) for pair in part], device=ranks.device)
                both, longer = (chosen.logratios + rejected.logratios) / 2, chosen.lengths > rejected.lengths
                columns = (
                    both,
                    chosen.logratios,
                    rejected.logratios,
                    chosen.mean_logratios,
                    rejected.mean_logratios,
                    prompts,
                    chosen.lengths,
                    rejected.lengths,
                    longer,
                )
                drift += torch.stack([column.double().sum() for column in columns])
        totals, drift = ranks.sum(totals), ranks.sum(drift)
    finally:
        dist.stop()
    count = totals[-1].item()
    return metrics.means(totals) | dict(zip(DRIFT, (drift / count).tolist(), strict=True)) | {"pairs": count}
