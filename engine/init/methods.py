"""The methods that a recipe can be written for, and where their values stand: the recipes that ship.

BMC's paper has a rewrite prompt, β and δ for each of its tasks: they go together (BmcTask).
"""

from dataclasses import dataclass

from schemas.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Method:
    """`loss`: its name in [train]; `recipe`: that ships with its values; `bridges`: it wants rewrites.

    `is_the_papers`: false for a loss that takes DPO's other settings, and its own defaults."""

    loss: str
    recipe: str
    title: str
    bridges: bool = False
    is_the_papers: bool = True


_PAPERS = (
    Method("dpo", "dpo", "DPO"),
    Method("ipo", "ipo", "IPO"),
    Method("rpo", "rpo", "RPO (regularised)"),
    Method("sr_dpo", "sr_dpo", "Sr-DPO"),
    Method("sr_ipo", "sr_ipo", "Sr-IPO"),
    Method("bmc", "bmc", "BMC", bridges=True),
)
# Losses without a recipe of their own. Not score_margin, which wants a scorer of the user's choice.
_OTHERS = (
    Method("robust_dpo", "dpo", "Robust DPO", is_the_papers=False),
    Method("simpo", "dpo", "SimPO", is_the_papers=False),
    Method("orpo", "dpo", "ORPO", is_the_papers=False),
    Method("hinge", "dpo", "the hinge loss (SLiC)", is_the_papers=False),
    Method("length_normalised_dpo", "dpo", "length-normalised DPO", is_the_papers=False),
    Method("dpop", "dpo", "DPOP", is_the_papers=False),
    Method("r_dpo", "dpo", "R-DPO", is_the_papers=False),
    Method("ld_dpo", "dpo", "LD-DPO", is_the_papers=False),
    Method("wpo", "dpo", "WPO", is_the_papers=False),
    Method("ipo_bmc", "bmc", "IPO-BMC", bridges=True, is_the_papers=False),
)


@dataclass(frozen=True)
class BmcTask:
    """A task of BMC's paper (arXiv 2408.07471): `prompt`, of [rewrite], and its `beta` and `delta`.

    `of_delta`: what is worth knowing of δ."""

    title: str
    prompt: str
    beta: float
    delta: float
    of_delta: str = "A changed token weighs 1 + δ at most; 0 weighs all alike."


_ANY_DATA = BmcTask(
    "instruction following",
    "rewrite_instruction",
    beta=0.01,
    delta=1.5,
    of_delta="The paper's is 1.5 to 2.0: a changed token weighs 1 + δ at most.",
)
_BMC_TASKS = (
    _ANY_DATA,
    BmcTask("question answering", "rewrite_question", 0.05, 3.0),
    BmcTask("mathematics", "rewrite_maths", 0.05, 2.5),
)
METHODS = {method.loss: method for method in (*_PAPERS, *_OTHERS)}
PAPERS = tuple(method.loss for method in _PAPERS)


def method_of(name: str) -> Method:
    """A method by its name. Raises UserError for one that there is not."""
    if name not in METHODS:
        raise UserError(f"--method {name}: {did_you_mean(name, METHODS)}")
    return METHODS[name]


def bmc_task_of(prompt: object) -> BmcTask:
    """The task of a rewrite prompt; instruction following for a prompt of the user's own, and for none."""
    return next((task for task in _BMC_TASKS if task.prompt == prompt), _ANY_DATA)


def other_bmc_tasks(task: BmcTask) -> str:
    """How to have the other tasks' values."""
    others = [f"{other.prompt} ({other.title})" for other in _BMC_TASKS if other != task]
    return f"--set rewrite.prompt={' or '.join(others)}"
