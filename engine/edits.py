"""Which tokens two responses differ in: BMC's edit masks (arXiv 2408.07471, methods §5), over token ids, made once.

`levenshtein` is the paper's: the operations of least edit distance. `difflib` is its official code's: Python's SequenceMatcher, whose longest
matching blocks are not of least distance (that code also matched prompts and padding and dropped stop-words, which is not repeated here).
"""

import difflib
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

Opcode = tuple[str, int, int, int, int]


def masks(
    chosen: Sequence[int], rejected: Sequence[int], diff: str = "levenshtein"
) -> tuple[np.ndarray, np.ndarray]:
    """bool (chosen tokens,) and (rejected tokens,): true where a token is replaced, or is only on its side."""
    found = (np.zeros(len(chosen), bool), np.zeros(len(rejected), bool))
    for operation, r_begin, r_end, c_begin, c_end in _DIFFS[diff](rejected, chosen):
        if operation != "equal":
            found[0][c_begin:c_end] = True
            found[1][r_begin:r_end] = True
    return found


def _levenshtein(a: Sequence[int], b: Sequence[int]) -> list[Opcode]:
    return Levenshtein.opcodes(a, b).as_list()


def _difflib(a: Sequence[int], b: Sequence[int]) -> list[Opcode]:
    return difflib.SequenceMatcher(None, a, b).get_opcodes()


_DIFFS = {"levenshtein": _levenshtein, "difflib": _difflib}
