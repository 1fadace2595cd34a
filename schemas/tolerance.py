"""How far two ways of computing the same log-probs may lie apart, in nat a token, by dtype.

dtypes are named as in a recipe: float32, bfloat16, float16. No torch here: the engine imports this module for
commands that must not load it.
"""


def largest_gap(dtype: str) -> float:
    """The largest gap of a single token in the self-test after loading, with weights in `dtype`."""
    if dtype == "float32":
        return 1e-3
    return 0.25


def mean_gap(wanted: float, *dtypes: str) -> float:
    """The largest mean gap: `wanted` if above 0, else what is normal between these dtypes."""
    if wanted > 0:
        return wanted
    for dtype in dtypes:
        if dtype != "float32":
            return 0.05
    return 1e-3
