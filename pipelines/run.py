"""A recipe's rounds: precompute, train, precompute with the new policy, train, …

    python -m pipelines.run RECIPE -o RUN [--set rounds.n=3]

Round r is in RUN/round-r, an ordinary run folder. Its model, which answers, judges and is the reference, is
the policy that round r − 1 ended with; so its data is new because the weights' digest is, and nothing else
tells the rounds apart. A policy that is an adapter ([train.lora]) is merged into its base first, in the
folder RUN/round-r/merged-<fingerprint>. After a kill the same command goes on and makes nothing again that
is finished. Ended rounds are listed in RUN/rounds.json.

One command does both halves, so nothing is loaded twice; and where there is a second core, what training
needs is loaded while the engine reads (pipelines/beside.py).
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from pipelines.beside import beside, pays
from schemas.adapters import is_adapter
from schemas.commands import (
    CONTEXT,
    RECIPE_ARGUMENT,
    Command,
    log_to_screen,
    run_option,
    settings_option,
    trust_option,
)
from schemas.digest import fingerprint
from schemas.errors import Ended, exit_on_user_error
from schemas.identity import config_digest, weights_digest
from schemas.loading import no_garbage
from schemas.manifest import RECIPE, json_bytes
from schemas.recipe import Recipe, load
from schemas.screen import say
from schemas.sections import Rounds
from schemas.store import LocalStore, Store, open_store

_KEPT = "what is finished is kept: run the same command to go on"
_IS_PROGRAM = __name__ == "__main__"  # not a caller's function: this process may fork


def rounds(where: str, recipe: Recipe, settings: Sequence[str] = (), trust: bool = False) -> list[Path]:
    """The policies that the rounds end with, each made if it is not there.

    `trust`: as of `engine precompute`."""
    config = recipe.sections.get("rounds", Rounds())
    assert isinstance(config, Rounds)
    store = open_store(where)
    policies: list[Path] = []
    ended: list[dict[str, object]] = []
    for number in range(1, config.n + 1):
        if policies:
            recipe = _starting_from(recipe, policies[-1])
        run = store.child(f"round-{number}")
        model = recipe.section("model").name
        say()
        say(f"round {number} of {config.n}: {run}, model {model}", bold=True)
        _precompute(run, recipe, trust)
        trained = _train(run, recipe, settings)
        goes_on = number < config.n
        policy = _whole(run, trained) if goes_on and is_adapter(trained) else trained
        policies.append(policy)
        row: dict[str, object] = {
            "round": number,
            "run": run.name,
            "policy": str(policy.relative_to(store.local_path())),
            "weights": weights_digest(policy),
        }
        if policy != trained:
            row["adapter"] = str(trained.relative_to(store.local_path()))
        ended.append(row)
        store.put("rounds.json", json_bytes(ended))
    return policies


def _whole(run: Store, adapter: Path) -> Path:
    """An adapter and its base as one model, which the next round can begin with: [train.lora] has no adapter
    as its base.

    Its folder is named by what it is made of, so it is found again, and another adapter makes another."""
    name = f"merged-{fingerprint([weights_digest(adapter), config_digest(adapter)])}"
    if not run.exists(name):
        from trainer.merge import merge

        folder = Path(run.where(name))
        say(f"{run.where(name)}: {merge(adapter, folder)}")
    return run.local_path(name)


def _starting_from(recipe: Recipe, policy: Path) -> Recipe:
    """The recipe with a policy as its model."""
    model = replace(recipe.section("model"), name=str(policy.resolve()), revision="main")
    return recipe.with_sections(model=model)


def _precompute(run: Store, recipe: Recipe, trust: bool) -> None:
    """Make the round's data; beside it load what training needs, where that pays."""

    from engine.commands.precompute import precompute

    def work() -> None:
        precompute(run, recipe, 0, trust=trust)

    if _IS_PROGRAM and isinstance(run, LocalStore) and pays():  # a client of a bucket cannot be forked
        beside(work, _load_trainer, _KEPT)
    else:
        work()


def _load_trainer() -> None:
    """Load what training needs."""
    with no_garbage():
        import trainer.train  # noqa: F401


def _train(run: Store, recipe: Recipe, settings: Sequence[str]) -> Path:
    """Train here on one device; on several in processes of their own, whose result is then found finished."""
    _load_trainer()
    import torch

    from trainer.train import train

    gpus = torch.cuda.device_count()
    if recipe.section("model").device in ("auto", "cuda") and gpus > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={gpus}",
            "-m",
            "trainer.cli",
            "run",
            str(run.local_path(RECIPE)),
            "-o",
            str(run),
        ]
        for setting in settings:
            if setting.startswith(("train.", "seed=")):
                command += ["--set", setting]
        code = subprocess.run(command).returncode
        if code:
            raise Ended(code)  # it has said why
    return train(run, recipe)


@click.command(cls=Command, context_settings=CONTEXT)
@RECIPE_ARGUMENT
@run_option("Folder of the rounds' run folders; what it holds is reused.")
@settings_option()
@trust_option()
def main(recipe: str, run: str, settings: tuple[str, ...], trust: bool) -> None:
    """Precompute and train n times ([rounds] of a RECIPE), each round with the last round's policy.

    \b
    Example:
      python -m pipelines.run pipelines/recipes/sandbox.toml -o runs/rounds --set rounds.n=2
    """
    log_to_screen()
    with exit_on_user_error(_KEPT):
        rounds(run, load(recipe, settings), settings, trust)


if __name__ == "__main__":
    main(prog_name="python -m pipelines.run")
