"""Which tensors an adapter has, by its file's header, and whether they fit its base: before any is loaded."""

import re
from collections.abc import Mapping
from pathlib import Path

from schemas.adapters import ADAPTER, ADAPTER_WEIGHTS, settings_of
from schemas.errors import UserError
from schemas.model_files import weight_files
from schemas.tensor_headers import Tensor, tensors_of

# base_model.model.<module>.lora_A.weight, lora_embedding_A, lora_magnitude_vector …
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>\w+)(?:\.weight|\.bias)?")
_PREFIX = "base_model.model."
# Which dimension of a matrix is not the rank. Which of the weight's it is differs: GPT-2's are (in, out).
_DIMENSION_OF_WEIGHT = {"A": 1, "B": 0, "embedding_A": 1, "embedding_B": 0}
_FLOATS = ("F64", "F32", "F16", "BF16")


def checked_tensors(path: Path, base: Path) -> dict[str, Tensor]:
    """The tensors of the adapter in `path`, which is on `base`.

    Raises UserError where they are none of LoRA, or of other sizes than the base's."""
    file = path / ADAPTER_WEIGHTS
    if not file.is_file():
        raise UserError(f"{path} has no {ADAPTER_WEIGHTS}{_other_form(path)}")
    tensors = tensors_of(file)
    _check_ranks(path, tensors)
    if not modules_of(tensors):
        raise UserError(f"{file} holds no tensors of LoRA, such as {_PREFIX}….lora_A.weight: get it again")
    of_base: dict[str, Tensor] = {}
    for weights in weight_files(base):
        of_base |= tensors_of(base / weights)
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX) or tensor.dtype not in _FLOATS:
            raise UserError(
                f"{file} holds {name[:200]} ({tensor.dtype}), which is no tensor of a LoRA adapter in "
                "floating point: get it again, or save the adapter again with PEFT (save_pretrained)"
            )
        weight = _weight_that_it_is_for(name, of_base)
        if weight is not None and not _fits(name, tensor, weight):
            raise UserError(
                f"the adapter in {path} does not fit {base}: {name} is {_size(tensor)}, and the weight that "
                f"it is for {_size(weight)}; was it trained on another model?"
            )
    return tensors


def _check_ranks(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for a rank beyond every size of the tensors: matrices of it would fill the memory."""
    settings = settings_of(path)
    largest = max(max(tensor.shape, default=0) for tensor in tensors.values())
    for rank in (settings["r"], *settings["rank_pattern"].values()):
        if rank > largest:
            raise UserError(
                f"the adapter in {path} says r = {rank:,} ({ADAPTER}), but no tensor of it has more than "
                f"{largest:,} rows or columns: the two do not belong together; get the folder again"
            )


def modules_of(tensors: Mapping[str, object]) -> list[str]:
    """The modules of the base that an adapter's tensors belong to, by their full names."""
    found: set[str] = set()
    for name in tensors:
        match = _LORA.fullmatch(name)
        if match:
            found.add(match["module"])
    return sorted(found)


def _weight_that_it_is_for(name: str, of_base: Mapping[str, Tensor]) -> Tensor | None:
    """The base's weight; None where its file calls it otherwise, which only loading tells."""
    match = _LORA.fullmatch(name)
    if match is None:
        return of_base.get(name.removeprefix(_PREFIX))
    return of_base.get(f"{match['module']}.weight")


def _fits(name: str, tensor: Tensor, weight: Tensor) -> bool:
    """True if a tensor can belong to a weight."""
    match = _LORA.fullmatch(name)
    if match is None:
        return tensor.shape == weight.shape
    of_weight = _DIMENSION_OF_WEIGHT.get(match["part"])
    if of_weight is None or len(tensor.shape) != 2:
        return True
    return tensor.shape[of_weight] in weight.shape


def _size(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _other_form(path: Path) -> str:
    for file in sorted(path.glob("adapter_model*")):
        if file.suffix in (".bin", ".pt", ".pth"):
            return (
                f" (only {file.name}, which can hold code): load the adapter with PEFT where you trust it, "
                "and save it again (save_pretrained), which writes safetensors"
            )
    return ": the adapter is not whole; get its folder again"
