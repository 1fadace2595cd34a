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
from typing import Any

from schemas.errors import UserError
from schemas.kernel_names import drop_kernels
from schemas.plain_files import MOST_JSON, read_plain

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
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
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_LFS_REMEDY = "run `git lfs pull` in the folder, or download it again (`hf download`)"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder; empty where there is no file.

    Raises UserError where it holds anything else."""
    if not path.exists():
        return {}
    data = read_content(path, MOST_JSON)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; get the folder again") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds no JSON object but {type(value).__name__} ({str(value)[:40]}): get it again"
        )
    return value


def read_content(file: Path, most: int) -> bytes:
    """A file's bytes. Raises UserError as `read_plain` and `check_is_content` do."""
    data = read_plain(file, most)
    _check_begin(file, data)
    return data


def check_is_content(file: Path) -> None:
    """Raise UserError where a file is empty, or stands for one that Git LFS has not fetched."""
    with open(file, "rb") as opened:
        _check_begin(file, opened.read(len(_LFS_POINTER)))


def _check_begin(file: Path, data: bytes) -> None:
    begin = data[: len(_LFS_POINTER)]
    if not begin:
        raise UserError(f"{file} is empty: get it again")
    if begin == _LFS_POINTER:
        raise UserError(f"{file} is a Git LFS pointer, not the file itself: {_LFS_REMEDY}")


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


def _indexed_files(path: Path) -> list[str]:
    return sorted(set(weight_map(path).values()))


def _check_adapter(path: Path, is_beside: bool) -> None:
    """Raise UserError where the folder is an adapter, or holds one beside a whole model."""
    if not (path / _ADAPTER).exists():
        return
    adapter = read_json(path / _ADAPTER)
    kind = adapter.get("peft_type") or "PEFT"
    base = adapter.get("base_model_name_or_path") or "a model that it does not name"
    remedy = (
        "merge the two (PEFT: load the adapter on its base, model.merge_and_unload(), then save_pretrained "
        "of model and tokenizer into a new folder) and name that folder"
    )
    if is_beside:
        raise UserError(
            f"{path} holds an adapter ({_ADAPTER}: {kind} on {base}) beside a whole model: "
            f"whether it is meant cannot be known; move {_ADAPTER} away, or {remedy}"
        )
    raise UserError(f"{path} is an adapter ({kind}) on {base}, not a whole model: {remedy}")


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
    """The names of the files that make a model without its tokenizer."""
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
        _ADAPTER,
        "chat_template.json",
        *PROCESSOR_FILES,
        *_VOCABULARIES,
        *_BESIDE_VOCABULARIES,
    )
    return name in known or name.endswith((".safetensors", ".jinja"))


def _present(path: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if (path / name).is_file()]


@contextlib.contextmanager
def view(path: Path, names: Iterable[str]) -> Iterator[Path]:
    """A temporary folder of links to these files of a model's folder: what a loader may see of it.

    A config.json that could name code (schemas/kernel_names.py) is there as a copy without that.
    What is loaded from it must be told its real `path`, and so must the user (`shown`). A process that is
    killed leaves a folder of links behind."""
    with tempfile.TemporaryDirectory(prefix="prefmill-model-") as made:
        folder = Path(made)
        for name in names:
            config = read_json(path / name) if name == CONFIG else {}
            if drop_kernels(config):
                (folder / name).write_text(json.dumps(config))
            else:
                (folder / name).symlink_to((path / name).resolve())
        yield folder
