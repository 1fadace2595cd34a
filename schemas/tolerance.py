"""How far two ways of computing the same log-probs may lie apart, in nat a token, by dtype.

dtypes are named as in a recipe: float32, bfloat16, float16. No torch here: the engine imports this module for
commands that must not load it.
"""


def largest_gap(dtype: str) -> float:
    """The largest gap of a single token in the self-test after loading, with weights in `dtype`."""
    if dtype == "float32":
        return 1e-3
    return 0.25


# The mean gap between arithmetics of different precision, at most.
MIXED = 0.05


def same_policy(dtype: str, device_type: str) -> float:
    """The largest mean gap where both sides have one precision policy (schemas/forward/precision.py).

    On a CPU a pass gives the same numbers however tokens are packed, up to rounding in float32. On a GPU the
    shape decides how a matrix product is cut up, and in half precision that shows."""
    if dtype == "float32" or device_type == "cpu":
        return 1e-3
    return MIXED


def mean_gap(wanted: float, *dtypes: str) -> float:
    """The largest mean gap: `wanted` if above 0, else what is normal between these dtypes."""
    if wanted > 0:
        return wanted
    for dtype in dtypes:
        if dtype != "float32":
            return 0.05
    return 1e-3
