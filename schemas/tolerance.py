"""How far two ways of computing the same log-probs may lie apart, in nat a token, by dtype.

dtypes are named as in a recipe: float32, bfloat16, float16. No torch here: the engine imports this module for
commands that must not load it.
"""

from typing import NamedTuple


class Gaps(NamedTuple):
    """The mean and the largest gap that are taken for rounding, in nat a token."""

    mean: float
    largest: float


def self_test_gaps(dtype: str, spread: float) -> Gaps:
    """What the self-test after loading takes for rounding, with weights in `dtype`.

    `spread`: how far the model's log-probs of the tokens lie from their mean, on average. In half precision
    it is the measure: a logit is rounded by a share of itself, and a model that is hardly trained shows a
    mistake in hundredths of a nat. Measured on SmolLM2-135M in bfloat16 with random tokens (spread 2.4), mean
    and largest: its own eager attention and a flash kernel 0.06 and 0.3 over a hundred tokens, 0.1 and 0.4
    over thirty; a scale of attention 10 % off 0.4 and 2.9, logits scaled by 5 % 0.31 and 0.9, no mask 3 and
    12. In float32 the former are 6e-6 and 4e-5. Small random models: right ones 2e-3 of the spread, wrong
    ones 0.07 and more."""
    if dtype == "float32":
        return Gaps(mean=2e-4, largest=1e-3)
    return Gaps(mean=min(0.2, 0.05 * spread), largest=min(1.0, 0.4 * spread))


def self_test_leak(dtype: str, spread: float) -> float:
    """The largest mean change of a response's log-probs by another response's tokens.

    It is 0 but for rounding of experts, which run on other numbers of tokens then: in float32 at most the
    3e-6 of the spread, in bfloat16 at most the 0.03, that any other kernel makes (SmolLM2-135M). State-space
    layers and convolutions of small random models give 3e-5 of the spread and more in float32."""
    if dtype == "float32":
        return 1e-5 * spread
    return 0.01 * spread


def largest_gap(dtype: str) -> float:
    """The largest gap of a single score, of 1 or less, that padding may make with weights in `dtype`."""
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


def is_mixed(cached: str, backend: str, dtype: str) -> bool:
    """True where log-probs cached in a dtype by a backend have another arithmetic than torch's in `dtype`."""
    return cached != dtype or (backend == "vllm" and cached != "float32")


def mean_gap(cached: str, backend: str, dtype: str, device_type: str) -> float:
    """The largest mean gap that is normal between cached log-probs and a pass of torch.

    `cached` and `backend`: how they were made; `dtype` and `device_type`: how the pass runs."""
    if is_mixed(cached, backend, dtype):
        return MIXED
    return same_policy(dtype, device_type)
