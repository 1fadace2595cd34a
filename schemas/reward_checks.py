"""What cannot be a reward model here, and what its config.json says of its scores and its length.

A reward model is a sequence-classification model of transformers: a decoder or an encoder with a head that
gives one or several logits a text, in floating-point weights, without code of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import UserError, did_you_mean
from schemas.model_checks import (
    Config,
    Kind,
    architectures_of,
    check_floats,
    check_rows,
    has_no_known_type,
    names_other_files,
    quantization_of,
)
from schemas.tensor_headers import Tensor

_HEAD = "ForSequenceClassification"
# Where transformers' classes keep the head: `score` in decoders, a `classifier` in most encoders.
_HEADS = ("score.", "classifier.", "classification_head.", "logits_proj.", "sequence_summary.")
# Families whose positions begin behind that of the padding token.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


def _is_encoder_decoder(config: Config) -> str | None:
    if config.get("is_encoder_decoder"):
        return (
            f"it is an encoder-decoder model ({config['model_type']}), which reads a text twice; "
            "use a decoder or an encoder with a head for sequence classification"
        )
    return None


def _is_quantized(config: Config) -> str | None:
    method = quantization_of(config)
    if method is None:
        return None
    return (
        f"its weights are quantized (quantization_config in config.json: {method}), which is not read here; "
        "get the model in bfloat16 or float32, as it was before that"
    )


def _has_no_such_head(config: Config) -> str | None:
    names = architectures_of(config)
    if not names or any(name.endswith(_HEAD) for name in names):
        return None
    name = names[0]
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return (
            f"it is a {name}, a language model, which gives no score of a text; "
            "let it judge ([judge] with model), or use a sequence-classification model"
        )
    code = ""
    if config.get("auto_map"):
        code = " of code of its own (auto_map in its config.json), and no code of a model folder is run"
    return (
        f"it is a {name}{code}; use a model whose architecture is one of transformers' own that end in "
        f"{_HEAD}, or score by a function of yours ([check])"
    )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise UserError where the tensors are not those of a model with a head, in floating point."""
    check_floats(path, tensors)
    check_rows(path, tensors, config)
    if not any(name.startswith(_HEADS) for name in tensors):
        raise UserError(
            f"the reward model in {path} cannot be used here: its weights hold no head that rates a text "
            "(score.weight, classifier.weight …), and a head of random numbers would be put in its place; "
            "get the folder again"
        )


REWARD = Kind(
    "reward model",
    refusals=(
        names_other_files,
        has_no_known_type,
        _is_encoder_decoder,
        _has_no_such_head,
        _is_quantized,
    ),
    check_tensors=_check_tensors,
)


def labels_of(config: Config) -> list[str]:
    """The names of a model's logits, in their order."""
    named: Any = config.get("id2label")
    if isinstance(named, dict) and named:
        by_number = {int(number): str(name) for number, name in named.items()}
        return [by_number[number] for number in sorted(by_number)]
    count = config.get("num_labels") or 2  # transformers' own default
    return [f"LABEL_{number}" for number in range(int(count))]


def label_number(wanted: str, labels: list[str], path: Path) -> int:
    """Which logit is the score: the only one, or the one that [reward] label names or numbers.

    Raises UserError where there are several and none is named, or no such one."""
    if wanted in labels:
        if labels.count(wanted) > 1:
            raise UserError(
                f"[reward] label = '{wanted}': {path} has several logits of that name; give its number"
            )
        return labels.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(labels):
        return int(wanted)
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(labels))
    if wanted:
        raise UserError(
            f"[reward] label = '{wanted}': the reward model in {path} has no such logit, only {listed}; "
            f"{did_you_mean(wanted, labels)}"
        )
    if len(labels) > 1:
        raise UserError(
            f"the reward model in {path} gives {len(labels)} logits a text ({listed}): "
            f'say which one is the score, such as [reward] label = "{labels[-1]}"'
        )
    return 0


def positions_of(config: Config, positions: int) -> int:
    """The longest text in tokens, special ones included; `positions`: those that config.json names."""
    if config["model_type"] in _POSITIONS_AFTER_PADDING and positions:
        padding = config.get("pad_token_id")
        first = 1 if padding is None else int(padding)
        return positions - first - 1
    return positions
