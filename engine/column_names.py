"""What the name of a column says: whether it may change what is learned, or only tells about the row.

And whether a value says anything at all.
"""

import functools
import math
import re

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _stem(word: str) -> str:
    """A word in lower case and without a plural's s."""
    lower = word.lower()
    if len(lower) > 3 and not lower.endswith("ss"):
        return lower.removesuffix("s")
    return lower


def _stems(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


# A column whose name has such a word may change what is learned.
_MEANING = _stems(
    "answer better candidate chosen completion context conversation dialog dialogue document function "
    "generation history image img audio video input instruction kwargs kto label margin message output "
    "attachment media partial passage pixel preference preferred prefix prompt query question rank ranking "
    "rating reasoning rejected response reward score system solution target think thinking thought tie tool "
    "weight winner worse background ctx doc fact persona post sys trajectory"
)
# Such a column does so whatever else its name says: image_url is an image, tool_call_id is of a call.
_ALWAYS = _stems("attachment audio function image img kto media pixel tie tool video")
# What is said to be there or not: false is as good as nothing.
_IS_THERE_OR_NOT = _ALWAYS - {"kto"} | _stems("partial prefix reasoning system think thinking")
# A text under such a name that is the prompt's own text says nothing new.
ASKS = _stems("input instruction problem prompt query question text")
# A plain value under a name that ends in such a word says something about the row and is no part of it.
_METADATA = _stems(
    "agreement annotator author batch category categories char collection confidence config corpus count "
    "country created dataset date datetime difficulty domain epoch file filename flag fold format genre "
    "guid hash id idx index key kind lang language len length level license link locale logp logprob "
    "method model modified name num number origin path policy ppl provider ratio region revision seed sha "
    "size source split status step subset tag time timestamp token topic type uid updated uri url uuid "
    "version worker year"
)
_ASKS_ABOUT = frozenset({"has", "is", "n", "num"})  # has_image, num_turns: the first word of metadata
# Several of these, written out, are a part of what is learned: all but their number.
_WRITTEN_OUT = frozenset({"steps", "turns"})
# Keys that change the meaning of a turn, although as a column's name they would not.
OF_A_TURN = frozenset({"file", "files", "loss", "mask", "name", "refusal", "train", "training"})
# How data sets call what an assistant thought before it spoke.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# What of a turn is read beside its role and its content.
TURN_KEYS = (*THOUGHTS, "tool_calls", "tool_call_id", "name")
# How programs write nothing as text.
_NOTHING_AS_TEXT = frozenset({"[]", "{}", "null", "none", "nan"})
_ONE_SHORT_WORD = re.compile(r"[!-~]{1,200}")
# A turn has both keys of one of these.
_TURN_FORMS = (frozenset({"role", "content"}), frozenset({"from", "value"}))
_TURNS_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")


def holds(value: object) -> bool:
    """Whether a value says anything: not null, NaN, blank, or a list or object of such."""
    if value is None:
        return False
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        return any(map(holds, value.values()))
    if isinstance(value, list):
        return any(map(holds, value))
    return True


def says_nothing(name: str, value: object) -> bool:
    """Whether a column that no format reads is empty: also as text ("[]", "None"), or a `tools` of false."""
    if value is False:
        return bool(_IS_THERE_OR_NOT & set(words_of(name)))
    if isinstance(value, str) and value.strip().lower() in _NOTHING_AS_TEXT:
        return True
    return not holds(value)


def is_finite(value: object) -> bool:
    """Whether no number in a JSON value is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return True


@functools.cache
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, each as `_stem` has it: scoreChosen, chosen-ratings."""
    return tuple(map(_stem, _WORD.findall(name)))


def is_turn(value: object) -> bool:
    """Whether a value is a turn of a dialogue: an object with role and content, or from and value."""
    return isinstance(value, dict) and any(form <= value.keys() for form in _TURN_FORMS)


def are_turns(value: object) -> bool:
    """Whether a value is a dialogue, or several: a list of turns, also as text."""
    if isinstance(value, str):
        return _TURNS_AS_TEXT.match(value) is not None
    if not isinstance(value, list) or not value:
        return False
    return all(map(is_turn, value)) or all(map(are_turns, value))


def is_metadata(name: str, value: object) -> bool:
    """Whether a column's name says that it only tells about the row: id, source, chosen_model, has_image."""
    words = words_of(name)
    if not words or isinstance(value, dict) or are_turns(value):
        return False
    if words[0] in _ASKS_ABOUT and len(words) > 1:
        return "tie" not in words
    if words[-1] == "step" and not _is_one_word(value):
        return False
    return words[-1] in _METADATA and not _ALWAYS & set(words)


def changes_meaning(name: str, value: object) -> bool:
    """Whether a column or key of this name may change what is learned from its row.

    A dialogue may, whatever its name; and steps or turns that are written out."""
    if are_turns(value):
        return True
    if is_metadata(name, value):
        return not _counts(name) and _is_written_out(name, value)
    return bool(_MEANING & set(words_of(name))) or _is_written_out(name, value)


def _counts(name: str) -> bool:
    """Whether a name asks how many there are, or whether there are any: num_steps."""
    words = words_of(name)
    return words[0] in _ASKS_ABOUT and len(words) > 1


def _is_written_out(name: str, value: object) -> bool:
    """Whether a value under steps or turns is a text or a list; a text under step is one as well."""
    if not isinstance(value, str | list):
        return False
    last = [word.lower() for word in _WORD.findall(name)][-1:]
    if set(last) & _WRITTEN_OUT:
        return not (isinstance(value, str) and value.strip().isdigit())
    return last == ["step"] and not _is_one_word(value)


def _is_one_word(value: object) -> bool:
    """Whether a value is a number, a short word or nothing."""
    if isinstance(value, str):
        return not value.strip() or _ONE_SHORT_WORD.fullmatch(value.strip()) is not None
    return not isinstance(value, list | dict)


def could_be_prompt(name: str, value: object) -> bool:
    """Whether a column that is not read may be the prompt: it has text, and not just a word of metadata."""
    if isinstance(value, dict):
        return any(could_be_prompt(key, inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(could_be_prompt(name, item) for item in value)
    if not isinstance(value, str) or says_nothing(name, value):
        return False
    tells_a_kind = is_metadata(name, value) or words_of(name)[-1:] == ("task",)
    return not (tells_a_kind and _ONE_SHORT_WORD.fullmatch(value.strip()))
