"""Which tokens two responses differ in: the edit masks of BMC (arXiv 2408.07471), made once.

- The masks are over token ids.
- `levenshtein` is the paper's diff: the operations of least edit distance.
- `difflib` is the diff of the paper's official code: Python's SequenceMatcher, whose longest matching blocks
  are not of least distance. That code also matched prompts and padding and dropped stop-words; this is not
  repeated here.
"""

import difflib
from collections.abc import Sequence
from typing import cast

import numpy as np

# The operation, its begin and end in the first sequence, its begin and end in the second.
Opcode = tuple[str, int, int, int, int]


def masks(
    chosen: Sequence[int], rejected: Sequence[int], diff: str = "levenshtein"
) -> tuple[np.ndarray, np.ndarray]:
    """The edit masks: bool (chosen tokens,) and (rejected tokens,).

    True where a token is replaced, or stands only on its side. `diff` is "levenshtein" or "difflib".
    """
    chosen_mask = np.zeros(len(chosen), bool)
    rejected_mask = np.zeros(len(rejected), bool)
    opcodes = _DIFFS[diff](rejected, chosen)
    for operation, rejected_begin, rejected_end, chosen_begin, chosen_end in opcodes:
        if operation != "equal":
            chosen_mask[chosen_begin:chosen_end] = True
            rejected_mask[rejected_begin:rejected_end] = True
    return chosen_mask, rejected_mask


def _levenshtein(a: Sequence[int], b: Sequence[int]) -> Sequence[Opcode]:
    from rapidfuzz.distance import Levenshtein  # not needed by the log-prob pass, which loads this module

    opcodes = Levenshtein.opcodes(a, b).as_list()
    return cast(list[Opcode], opcodes)  # rapidfuzz's own type, which unpacks like the tuple


def _difflib(a: Sequence[int], b: Sequence[int]) -> Sequence[Opcode]:
    return difflib.SequenceMatcher(None, a, b).get_opcodes()


_DIFFS = {"levenshtein": _levenshtein, "difflib": _difflib}


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items (tokens, or characters of texts) are equal from the start on."""
    count = 0
    for item, other in zip(a, b, strict=False):
        if item != other:
            break
        count += 1
    return count
