"""What cannot be a model here, said in one sentence before any work: by config.json and the weights' headers.

A model here is a decoder whose head gives the log-probs of the next token, in floating-point weights, without
code of its own. A reward model (schemas/reward_checks.py) is another kind.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.model_content import read_json
from schemas.model_errors import usable
from schemas.model_files import CONFIG, weight_files, weight_map
from schemas.model_sizes import check_sizes
from schemas.plain_files import MOST_JSON, read_plain
from schemas.tensor_headers import Tensor, tensors_of

Config = Mapping[str, Any]
# Families that read in both directions, unless config.json says is_decoder.
_ENCODERS = {
    "albert",
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "esm",
    "eurobert",
    "megatron-bert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
# Parts of an architecture's name that stand for a head without token probabilities.
_OTHER_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForImageClassification",
    "ForMaskedLM",
    "Reward",
)
_QUANTIZED_DTYPES = ("I4", "U4", "I8", "U8", "I32", "F4", "F8_", "F6_")
_WEIGHT_ENDINGS = (".weight", ".qweight", ".weight_packed", ".weight_quantized", "_blocks")
_USE_ANOTHER = "use a decoder-only language model"
_GET_UNQUANTIZED = "get the model in bfloat16 or float32, as it was before that"


@dataclass(frozen=True)
class Kind:
    """What a model may be used for: `name` in messages, what is refused by its config and by its tensors.

    A refusal gives the rest of a sentence, or None; `check_tensors` raises UserError."""

    name: str
    refusals: tuple[Callable[[Config], str | None], ...]
    check_tensors: Callable[[Path, Mapping[str, Tensor], Config], None]


def checked_config(path: Path, kind: Kind | None = None) -> dict[str, Any]:
    """config.json of a model's folder. Raises UserError where it is no model of the kind.

    `kind`: None is a language model."""
    kind = kind or LANGUAGE
    file = path / CONFIG
    if not file.exists():
        raise UserError(f"{path} has no {CONFIG}: it is not a model folder in Hugging Face form")
    config = read_json(file)
    for refusal in kind.refusals:
        reason = refusal(config)
        if reason:
            raise UserError(f"the {kind.name} in {path} cannot be used here: {reason}")
    modules = path / "modules.json"
    if kind is LANGUAGE and modules.exists() and b"Pooling" in read_plain(modules, MOST_JSON):
        raise UserError(
            f"the model in {path} cannot be used here: its modules.json says that it gives embeddings of "
            f"texts, not log-probs of tokens; {_USE_ANOTHER}"
        )
    return config


def names_other_files(config: Config) -> str | None:
    for key in ("transformers_weights", "configuration_files"):
        if config.get(key):
            return (
                f"its {CONFIG} names other files to load by {key} ({config[key]}), which are not looked at; "
                "load it with transformers and save it again by save_pretrained"
            )
    return None


def has_no_known_type(config: Config) -> str | None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        return (
            f"its {CONFIG} has no model_type, by which transformers knows how to build it; "
            "add the one of its family (such as llama), or get the folder again"
        )
    if _is_known_type(kind):
        return None
    if config.get("auto_map"):
        return (
            f"it needs code of its own (auto_map in {CONFIG}; model_type {kind} is not part of "
            "transformers), and no code of a model folder is run; use one that transformers supports itself"
        )
    return (
        f"the installed transformers does not know its model_type {kind}; correct it in {CONFIG} "
        "or use a model that transformers supports"
    )


def _is_known_type(kind: str) -> bool:
    """True if transformers has this model_type. Imports transformers only where its folders do not tell."""
    package = importlib.util.find_spec("transformers")
    assert package is not None and package.submodule_search_locations
    # Most types have a folder of their name; `gemma3_text` is in that of `gemma3`.
    folder = Path(
        package.submodule_search_locations[0], "models", kind.removesuffix("_text").replace("-", "_")
    )
    if kind.isidentifier() and (folder / f"configuration_{folder.name}.py").is_file():
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def _is_encoder_decoder(config: Config) -> str | None:
    if config.get("is_encoder_decoder"):
        return (
            f"it is an encoder-decoder model ({config['model_type']}), which reads the prompt apart from the "
            f"response; {_USE_ANOTHER}"
        )
    return None


def _is_encoder(config: Config) -> str | None:
    if config["model_type"] in _ENCODERS and not config.get("is_decoder"):
        return (
            f"it is an encoder ({config['model_type']}), which sees the tokens after the one that it "
            f"predicts; {_USE_ANOTHER}"
        )
    return None


def architectures_of(config: Config) -> list[str]:
    names = config.get("architectures")
    return list(map(str, names)) if isinstance(names, list) else []


def _has_another_head(config: Config) -> str | None:
    for name in architectures_of(config):
        if any(part in name for part in _OTHER_HEADS):
            return (
                f"it is a {name}, a model that classifies or rates: it gives no log-probs of tokens; "
                "use the language model that it was made from"
            )
    return None


def quantization_of(config: Config) -> object:
    """By what method a model's weights are quantized, as its config says; None where they are not."""
    found: object = config.get("quantization_config") or config.get("compression_config")
    text = config.get("text_config")
    if isinstance(text, dict):
        found = found or text.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method or found or None


def _is_quantized(config: Config) -> str | None:
    method = quantization_of(config)
    if method is None:
        return None
    return (
        f"its weights are quantized (quantization_config in {CONFIG}: {method}), "
        f"and a quantized model's log-probs are not those of the model to be trained; {_GET_UNQUANTIZED}"
    )


def checked_weight_files(path: Path, config: Config, kind: Kind | None = None) -> list[Path]:
    """The files of a model's weights, by their headers whole and those of the kind (None: a language model).

    Raises UserError for what is not."""
    kind = kind or LANGUAGE
    files = [path / name for name in weight_files(path)]
    tensors: dict[str, Tensor] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for name, tensor in tensors_of(file).items():
            if name in tensors:
                raise UserError(
                    f"{path} holds {name} twice, in {file_of[name]} and {file.name}: get the folder again"
                )
            tensors[name] = tensor
            file_of[name] = file.name
    # The index then says nothing that the files themselves do not say.
    for name, named in weight_map(path).items():
        if file_of.get(name) != named:
            raise UserError(
                f"{path} is not whole: its index says that {name} is in {named}, which does not hold it; "
                "get the folder again"
            )
    check_sizes(path, config, tensors)
    kind.check_tensors(path, tensors, config)
    return files


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise UserError where the tensors are not those of a language model in floating point."""
    check_floats(path, tensors)
    if "score.weight" in tensors:
        raise UserError(
            f"the model in {path} cannot be used here: its weights end in a head that rates or classifies "
            "(score.weight) and gives no log-probs of tokens; use the language model that it was made from"
        )
    _check_head(path, tensors, config)
    check_rows(path, tensors, config)


def check_floats(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where weights are quantized."""
    for name, tensor in tensors.items():
        if name.endswith(_WEIGHT_ENDINGS) and tensor.dtype.startswith(_QUANTIZED_DTYPES):
            raise UserError(
                f"the model in {path} cannot be used here: its weights are quantized ({name} is "
                f"{tensor.dtype}); {_GET_UNQUANTIZED}"
            )


def check_rows(path: Path, tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise UserError where the embedding has other rows than the config says."""
    text = config.get("text_config")
    said = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    for name, tensor in tensors.items():
        if name.endswith(("language_model.embed_tokens.weight", "model.embed_tokens.weight", "wte.weight")):
            rows = tensor.shape[0] if len(tensor.shape) == 2 else said
            if isinstance(said, int) and rows != said:
                raise UserError(
                    f"the model in {path} cannot be used here: its config.json says vocab_size = {said}, but "
                    f"{name} has {rows} rows: the two do not belong together; get the folder again"
                )


def _check_head(path: Path, tensors: Mapping[str, Tensor], config: Config) -> None:
    """Raise UserError where a model has no head that gives log-probs, as a model for embeddings has none."""
    bare = [name for name in architectures_of(config) if name.endswith("Model") and "LMHead" not in name]
    has_head = any("head" in name or "embed_out" in name for name in tensors)
    if bare and not has_head and not _ties(path, config):
        raise UserError(
            f"the model in {path} cannot be used here: it is a {bare[0]}, a model without the head that "
            "gives log-probs of tokens (for embeddings?); use the language model that it was made from"
        )


def _ties(path: Path, config: Config) -> bool:
    """True if the model's head is its embedding."""
    text = config.get("text_config")
    said = config.get("tie_word_embeddings")
    if said is None and isinstance(text, dict):
        said = text.get("tie_word_embeddings")
    if said is None:  # its family's default
        from transformers import AutoConfig

        with usable(path):
            own = AutoConfig.from_pretrained(path, trust_remote_code=False)
        said = getattr(own, "tie_word_embeddings", False)
    return bool(said)


LANGUAGE = Kind(
    "model",
    refusals=(
        names_other_files,
        has_no_known_type,
        _is_encoder_decoder,
        _is_encoder,
        _has_another_head,
        _is_quantized,
    ),
    check_tensors=_check_tensors,
)
