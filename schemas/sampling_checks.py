"""Checks of the keys that shape sampling, and hints for names that other tools have for them.

Each check gives the rest of a sentence about what is wrong, or None (schemas/fields.py: Check).
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from schemas.errors import did_you_mean

MOST_BIAS = 100.0  # vLLM's and OpenAI's bound of logit_bias, either way
STRUCTURES = ("json", "regex", "choice", "grammar")  # the keys of structured_outputs

_STRUCTURED = "it stands in a table of its own here: structured_outputs.{}"
_NO_BEAMS = "there is no beam search, only samples: n of them, by temperature, top_p, top_k and min_p"
# Keys of vLLM, transformers and OpenAI that [generate] does not have -> what to do.
HINTS: Mapping[str, str] = {
    "seed": "the recipe's own seed, above all sections (seed = 1), is the seed of every sample",
    "best_of": "set n; all samples are kept, and [judge] and [pairs] choose among them",
    "use_beam_search": _NO_BEAMS,
    "num_beams": _NO_BEAMS,
    "beam_width": _NO_BEAMS,
    "length_penalty": _NO_BEAMS,
    "early_stopping": _NO_BEAMS,
    "do_sample": "temperature = 0 is greedy, any other temperature samples",
    "num_return_sequences": "set n",
    "max_new_tokens": "set max_tokens",
    "max_completion_tokens": "set max_tokens",
    "max_length": "set max_tokens, which counts the tokens of the response alone",
    "min_new_tokens": "set min_tokens",
    "min_length": "set min_tokens, which counts the tokens of the response alone",
    "stop_strings": "set stop",
    "stop_sequences": "set stop",
    "eos_token_id": "the model's own end tokens are known; set stop_token_ids to end at others as well",
    "ignore_eos": "a response ends at the model's end token; min_tokens keeps it from ending too soon",
    "include_stop_str_in_output": "a response ends before the stop string",
    "no_repeat_ngram_size": "set frequency_penalty or repetition_penalty",
    "allowed_token_ids": "set structured_outputs.choice or regex, or logit_bias",
    "bad_words_ids": "set bad_words, as texts",
    "sequence_bias": "set logit_bias",
    "logprobs": "the log-prob of every sampled token is kept: sampled_token_logps in responses",
    "prompt_logprobs": "only responses have log-probs, by the section [logprobs]",
    "guided_json": _STRUCTURED.format("json"),
    "guided_regex": _STRUCTURED.format("regex"),
    "guided_choice": _STRUCTURED.format("choice"),
    "guided_grammar": _STRUCTURED.format("grammar"),
    "response_format": _STRUCTURED.format("json"),
}


def texts(values: tuple[str, ...]) -> str | None:
    """Texts none of which is empty: every text holds an empty one."""
    if "" in values:
        return ": a text in it is empty"
    return None


def words(values: tuple[str, ...]) -> str | None:
    """Texts that are more than white space."""
    if not all(map(str.strip, values)):
        return ": a word in it is empty, or white space alone"
    return None


def token_ids(values: tuple[int, ...]) -> str | None:
    """Token ids; whether the model has them shows when it is looked at."""
    negative = [value for value in values if value < 0]
    if negative:
        return f" has {negative[0]}: a token id is 0 or more"
    return None


def logit_bias(biases: dict[str, Any]) -> str | None:
    """Token ids, each with what is added to its logit."""
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and str(int(token)) == token):
            return f"{token}: expected a token id, such as 42 = -100"
        is_number = type(bias) in (int, float) and math.isfinite(bias)
        if not is_number or abs(bias) > MOST_BIAS:
            return f"{token} = {bias!r}: expected a number of at least -100 and at most 100"
    return None


def structured_outputs(structure: dict[str, Any]) -> str | None:
    """One kind of structure, by vLLM's names."""
    if not structure:
        return None
    for key in structure:
        if key not in STRUCTURES:
            return f"has no key '{key}'; {did_you_mean(key, STRUCTURES)}"
    if len(structure) > 1:
        return f"has {' and '.join(sorted(structure))}: exactly one of {', '.join(STRUCTURES)}"
    ((kind, value),) = structure.items()
    complaint = _STRUCTURE_CHECKS[kind](value)
    return f"{kind} {complaint}" if complaint else None


def _json(value: object) -> str | None:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            json.loads(value)
        except ValueError as error:
            return f"is no JSON: {error}"
        return None
    if value and isinstance(value, str | dict):
        return None
    return f"= {value!r}: expected a JSON schema as a table, as text, or the path of a file"


def _text(value: object) -> str | None:
    if isinstance(value, str) and value.strip():
        return None
    return f"= {value!r}: expected a text that is not empty; put it in quotes"


def _texts(value: object) -> str | None:
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return None
    return f'= {value!r}: expected a list of texts, such as ["yes", "no"]'


_STRUCTURE_CHECKS = {
    "json": _json,
    "regex": _text,
    "choice": _texts,
    "grammar": _text,
}
