"""The methods that a recipe can be written for, and where their values stand: the recipes that ship."""

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
METHODS = {method.loss: method for method in (*_PAPERS, *_OTHERS)}
PAPERS = tuple(method.loss for method in _PAPERS)


def method_of(name: str) -> Method:
    """A method by its name. Raises UserError for one that there is not."""
    if name not in METHODS:
        raise UserError(f"--method {name}: {did_you_mean(name, METHODS)}")
    return METHODS[name]
