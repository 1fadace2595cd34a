"""Whether the name of a file or a folder says that it holds a test split.

- A name is cut into words at what is no letter, and where a capital begins: `TestData`, `held-out`.
- A word counts with what is often written onto it: `tests`, `testing`, `testset`, `validation_set`.
- The nearest name decides: the file's own, else its folder's. Within a name a word for training wins.
"""

import re
from pathlib import PurePath

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ENDINGS = r"(?:s|ing|sets?|data|datasets?|splits?|files?)?"
_TEST = re.compile(
    rf"(?:test|dev|val|valid|validation|eval|evaluation|heldout|holdout){_ENDINGS}|validate[ds]?|validating"
)
_TRAIN = re.compile(rf"(?:train|training|trainval){_ENDINGS}")
_HELD_OUT = re.compile(r"\b(held|hold) out")


def says_test(name: str) -> bool:
    """Whether a file's name, or else the nearest folder's on its way that says a split, says test."""
    for part in reversed(PurePath(name).parts):
        words = _words(part)
        if any(map(_TRAIN.fullmatch, words)):
            return False
        if any(map(_TEST.fullmatch, words)):
            return True
    return False


def _words(name: str) -> list[str]:
    """The words of a name, in lower case; `held out` is one."""
    text = " ".join(_WORD.findall(name)).lower()
    return _HELD_OUT.sub(r"\1out", text).split()
