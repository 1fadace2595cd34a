"""Which draw the rows of a stage that samples on transformers come from: a fact of its folder.

The same seeds gave other tokens before (draw 1, which no folder names). Such a folder stays what it is once
it is finished: a recipe that asks for its rows finds them, also where its manifest was taken back to repair a
stage above and the command was stopped. One that was not finished is made anew under another name, since its
shards would otherwise be of two draws. vLLM has its own draws, and greedy rows have none.
"""

from typing import Any

from engine.models.spec import ModelSpec
from schemas.errors import UserError
from schemas.manifest import MANIFEST, Facts, folder_name, marker_names
from schemas.sections import Sampling
from schemas.store import Store

_FACT = "draw"
_DRAW = 2  # grows where a seed comes to mean other tokens (engine/models/sampling.py)


def draw_facts(sampling: Sampling, spec: ModelSpec) -> Facts:
    """What a stage adds to its facts that samples by a model of this spec."""
    if spec.backend != "hf" or sampling.temperature == 0:
        return {}
    return {_FACT: _DRAW}


def as_finished(run: Store, stage: str, facts: Facts, shards: int) -> Facts:
    """The facts; those of draw 1 where the run has a finished folder of them, of so many shards."""
    if _FACT not in facts:
        return facts
    older = without_draw(facts)
    folder = run.child(folder_name(stage, older))
    is_finished = folder.exists(MANIFEST) or len(marker_names(folder)) >= shards
    return older if is_finished else facts


def check(planned: Facts, own: Facts, folder: str) -> None:
    """Raise UserError where a shard of draw 1 is about to be made: that is not to be had any more."""
    if _FACT in own and _FACT not in planned:
        raise UserError(
            f"{folder} was sampled by an older version of prefmill, whose draws this one does not make, and "
            "a shard of it is gone or damaged: remove the folder and run the same command again, which "
            "samples anew"
        )


def like(planned: Facts, own: dict[str, Any]) -> dict[str, Any]:
    """A stage's own facts, taken again, as they are compared with those it was planned with."""
    return own if _FACT in planned else without_draw(own)


def without_draw(facts: Facts) -> dict[str, Any]:
    """The facts as they were written before there was a second draw."""
    return {name: value for name, value in facts.items() if name != _FACT}
