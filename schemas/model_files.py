"""Which files of a model folder are opened: decided here once, for the digests and for every loader.

Tools disagree about folders that hold more than one model: transformers takes model.safetensors, vLLM what
the index beside it names; an adapter, Mistral's consolidated.safetensors or tekken.json is loaded or not by
what else is installed. So a loader is given a folder of links to the files that were decided on (`view`):
what is digested is what it can see. A folder that leaves the decision open is refused.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from schemas.adapters import ADAPTER, MERGE_IT, base_of, is_adapter
from schemas.errors import UserError
from schemas.kernel_names import drop_kernels
from schemas.model_content import INDEX, WEIGHTS, check_is_content, read_json

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# A model that also takes pictures or sound is not opened without them.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# Any of these makes a tokenizer: the files that the tokenizers of transformers name, and tiktoken.model, from
# which it converts.
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "spm_char.model",
    "tiktoken.model",
    "source.spm",
    "vocab-src.json",
    "prophetnet.tokenizer",
)
# These belong to one.
_BESIDE_VOCABULARIES = (
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "target.spm",
    "vocab-tgt.json",
    "target_vocab.json",
    "normalizer.json",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
)
# A plain name, so that no index leads out of the folder, and none to a file that is read by running it.
_WEIGHTS_NAME = re.compile(r"[^/\\\x00]+\.safetensors")


def weight_files(path: Path) -> list[str]:
    """The names of the files that hold a model's weights: those that its index names, or the one.

    What else is beside them (an optimizer, consolidated.safetensors) is not the model. Raises UserError where
    there are none, where they are not whole, or where the folder can be read as more than one model."""
    single = (path / WEIGHTS).is_file()
    indexed = _indexed_files(path)
    _check_adapter(path, is_beside=single or bool(indexed))
    if single and indexed and indexed != [WEIGHTS]:
        raise UserError(
            f"{path} holds {WEIGHTS} and {INDEX}, which names other files ({indexed[0]} …): which of them "
            "are the weights cannot be known; delete the index and its files, or the single file"
        )
    if single:
        return [WEIGHTS]
    if not indexed:
        raise UserError(f"{path} has no {WEIGHTS}{_other_weights(path)}")
    for name in indexed:
        if not (path / name).is_file():
            raise UserError(f"{path} is not whole: its index names {name}, which is not there")
    return indexed


def weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file, as the index says; empty without an index.

    Raises UserError where it does not map to files of the folder."""
    file = path / INDEX
    if not file.exists():
        return {}
    mapped = read_json(file).get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise UserError(f"{file} has no weight_map of tensors to files: get the folder again")
    for tensor, name in mapped.items():
        if not isinstance(name, str) or not _WEIGHTS_NAME.fullmatch(name):
            raise UserError(
                f"{file} says that {tensor} is in {str(name)[:80]!r}, which is no .safetensors file of the "
                "folder: get the folder again, or save the model again by save_pretrained"
            )
    return mapped


def model_home(path: Path) -> Path:
    """The folder with a model's weights and config: of an adapter that of its base."""
    return base_of(path) if is_adapter(path) else path


def tokenizer_home(path: Path) -> Path:
    """The folder with a model's tokenizer and template: of an adapter its own, or that of its base."""
    if not is_adapter(path) or any((path / name).is_file() for name in _VOCABULARIES):
        return path
    return base_of(path)


def place_of(path: Path, name: str) -> Path:
    """Where a file of a model is, whether it exists or not: for an adapter some are in its base's folder."""
    is_of_model = name in (CONFIG, GENERATION_CONFIG, INDEX, *PROCESSOR_FILES) or name.endswith(
        ".safetensors"
    )
    home = model_home(path) if is_of_model else tokenizer_home(path)
    return home / name


def _indexed_files(path: Path) -> list[str]:
    return sorted(set(weight_map(path).values()))


def _check_adapter(path: Path, is_beside: bool) -> None:
    """Raise UserError where the folder is an adapter, or holds one beside a whole model."""
    if not (path / ADAPTER).exists():
        return
    adapter = read_json(path / ADAPTER)
    kind = adapter.get("peft_type") or "PEFT"
    base = adapter.get("base_model_name_or_path") or "a model that it does not name"
    if is_beside:
        raise UserError(
            f"{path} holds an adapter ({ADAPTER}: {kind} on {base}) beside a whole model: whether it is "
            f"meant cannot be known; move {ADAPTER} away, or the adapter's files into a folder of their own, "
            "which can be named as a model is"
        )
    raise UserError(f"{path} is an adapter ({kind}) on {base}, not a whole model: {MERGE_IT}")


def _other_weights(path: Path) -> str:
    """What to add about weights in a form that is not read here; empty where there are none."""
    save_again = "save it with save_pretrained, which writes safetensors"
    forms = (
        (("pytorch_model*.bin",), f"which can hold code: convert it ({save_again})"),
        (("*.gguf",), "which is GGUF, for llama.cpp: get the model in Hugging Face form, as it was before"),
        (("consolidated*.safetensors",), "which is Mistral's own form: get the one in Hugging Face form"),
        (("*.h5", "*.msgpack"), f"which is not PyTorch's: load it there and {save_again}"),
        (("*.bin", "*.pt", "*.pth"), f"which can hold code: convert it ({save_again})"),
    )
    for patterns, remedy in forms:
        for pattern in patterns:
            for file in sorted(path.glob(pattern)):
                return f" (only {file.name}, {remedy})"
    return ": it is not a whole model folder in Hugging Face form, or its download is not finished"


def tokenizer_files(path: Path) -> list[str]:
    """The names of the files that make a model's tokenizer, beside tokenizer_config.json.

    Mistral's tekken.json is none of them: it is used only where a package of theirs is installed. Raises
    UserError where none makes one."""
    path = tokenizer_home(path)
    versions = read_json(path / TOKENIZER_CONFIG).get("fast_tokenizer_files")
    wanted = [*_VOCABULARIES, *_BESIDE_VOCABULARIES]
    vocabularies = list(_VOCABULARIES)
    if isinstance(versions, list):
        for name in map(str, versions):
            is_plain = Path(name).name == name and name.endswith(".json")
            if is_plain and name not in wanted:
                wanted.append(name)
                vocabularies.append(name)
    found = _present(path, wanted)
    if not set(found) & set(vocabularies):
        tekken = ""
        if (path / "tekken.json").exists():
            tekken = " but only tekken.json, Mistral's own form: get tokenizer.json from the same model"
        raise UserError(f"{path} has no tokenizer.json (nor tokenizer.model or vocab.json){tekken}")
    for name in found:
        check_is_content(path / name)
    return found


def files_of_model(path: Path) -> list[str]:
    """The names of the files that make a model without its tokenizer; of an adapter those of its base."""
    path = model_home(path)
    weights = weight_files(path)
    names = [CONFIG, *weights]
    if weights != [WEIGHTS]:
        names.append(INDEX)
    return names + _present(path, (GENERATION_CONFIG, *PROCESSOR_FILES))


def files_of_tokenizer(path: Path) -> list[str]:
    """The names of the files that make a tokenizer: config.json names its class where nothing else does.

    No template is among them: it is handed over as text."""
    return tokenizer_files(path) + _present(path, (TOKENIZER_CONFIG, CONFIG))


def is_read_of_model(name: str) -> bool:
    """True if a loader of models or tokenizers may read a file of this name where it finds one."""
    known = (
        CONFIG,
        GENERATION_CONFIG,
        TOKENIZER_CONFIG,
        INDEX,
        ADAPTER,
        "chat_template.json",
        *PROCESSOR_FILES,
        *_VOCABULARIES,
        *_BESIDE_VOCABULARIES,
    )
    return name in known or name.endswith((".safetensors", ".jinja"))


def _present(path: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if place_of(path, name).is_file()]


@contextlib.contextmanager
def view(path: Path, names: Iterable[str]) -> Iterator[Path]:
    """A temporary folder of links to these files of a model's folder: what a loader may see of it.

    A config.json that could name code (schemas/kernel_names.py) is there as a copy without that.
    What is loaded from it must be told its real `path`, and so must the user (`shown`). A process that is
    killed leaves a folder of links behind."""
    with tempfile.TemporaryDirectory(prefix="prefmill-model-") as made:
        folder = Path(made)
        for name in names:
            place = place_of(path, name)
            config = read_json(place) if name == CONFIG else {}
            if drop_kernels(config):
                (folder / name).write_text(json.dumps(config))
            else:
                (folder / name).symlink_to(place.resolve())
        yield folder
