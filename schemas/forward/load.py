"""A model folder to a model that is ready for the packed pass.

Safetensors only, and no code of the folder's is run. After loading, a self-test compares the packed pass with
the model's own forward. A model whose layers do not call transformers' attention interface is padded instead.
A model that does more after its last layer than `logps.Head` knows is refused.
"""

import contextlib
import ctypes
import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging as logging_of_transformers

from schemas import tolerance
from schemas.errors import UserError
from schemas.forward.attention import PACKED
from schemas.forward.layout import Group, pack
from schemas.forward.logps import decoder_and_head, token_logps
from schemas.model_errors import shown, usable
from schemas.model_files import files_of_model, view, weight_files
from schemas.model_sizes import check_built
from schemas.panics import panics_as_errors
from schemas.tensor_headers import tensors_of

_NUMBER = re.compile(r"\.\d+\.")  # of a layer, in a tensor's name
_log = logging.getLogger("prefmill")
# glibc's parameters of mallopt.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4


def load(path: Path, dtype: torch.dtype, device: torch.device | str) -> PreTrainedModel:
    """Load a model folder's weights on a device, ready for `logps.split` and `logps.token_logps`.

    Its generation_config is left behind: it would change sampling without being asked to, and many published
    ones cannot be saved again. Raises UserError that names what is wrong with the folder."""
    model = read_weights(AutoModelForCausalLM, path, dtype, device, attn_implementation="sdpa")
    model.generation_config = GenerationConfig()
    # Dropout would make a model differ from its own log-probs. The DPO authors' code switches it off too.
    model.eval()
    with usable(path):
        return prepare(model)


def read_weights(
    kind: Any, path: Path, dtype: torch.dtype, device: torch.device | str, **options: Any
) -> PreTrainedModel:
    """The folder's model on the device, as one of transformers' Auto classes opens it.

    `kind`: the class; `options`: more of its arguments. Raises UserError if the model does not load or lacks
    weights."""
    logging_of_transformers.disable_progress_bar()
    if torch.device(device).type == "cpu":
        _keep_freed_memory()
    with view(path, files_of_model(path)) as folder:
        try:
            _check_size(kind, folder, path, options)
            with panics_as_errors():
                loaded: Any = kind.from_pretrained(
                    folder,
                    dtype=dtype,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **options,
                )
        except UserError:
            raise
        except Exception as error:  # each class of a config and of a model fails in its own way
            raise UserError(f"the model in {path} does not load: {shown(error, folder, path)}") from None
    model: PreTrainedModel
    model, info = loaded
    model.name_or_path = model.config.name_or_path = str(path)
    # transformers fills what is missing with random numbers and goes on.
    absent = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if absent:
        raise UserError(
            f"the weights in {path} are not whole: {len(absent)} tensors are missing or of another shape, "
            f"such as {absent[0]}; get the folder again"
        )
    _check_nothing_left(path, model, info["unexpected_keys"])
    return model.to(device)


def _check_size(kind: Any, folder: Path, path: Path, options: dict[str, Any]) -> None:
    """Raise UserError where the config builds a model that is far larger than the files."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):  # without memory
        built = kind.from_config(config, trust_remote_code=False, **options)
    elements = 0
    for name in weight_files(path):
        elements += sum(math.prod(tensor.shape) for tensor in tensors_of(path / name).values())
    check_built(path, built, elements)


def _check_nothing_left(path: Path, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Raise UserError where the weights hold more layers than the config builds: half a model would be used.

    Other tensors that are not loaded (a picture tower, a value head) are no part of the language model."""
    own = {_NUMBER.split(name)[0] for name in model.state_dict() if _NUMBER.search(name)}
    for name in sorted(unexpected):
        if _NUMBER.search(name) and _NUMBER.split(name)[0] in own:
            raise UserError(
                f"the weights in {path} hold {name}, for which its config.json has no place: the two do not "
                "belong together (num_hidden_layers?); get the folder again"
            )


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step.

    By default it gives large tensors back to the system, and each step faults them in anew, page by page: 55
    thousand faults and a seventh of a step's time at 5 million parameters. The peak is the same. This changes
    no number."""
    # Without glibc do nothing.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)  # large blocks lie in the heap too


def give_freed_memory_back() -> None:
    """Tell glibc to give freed blocks of a MiB or more back at once: slower, and memory is what is freed.

    It undoes `_keep_freed_memory` where memory is short. Weights that are gathered, and layers that run
    again, leave holes of all sizes in a heap: as much again as was ever alive, at 60 million parameters."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_MMAP_MAX, 1 << 16)
        libc.malloc_trim(0)


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a model to the packed attention if it still gives its own log-probs then.

    Otherwise leave it to padding and warn. Raises UserError if padding does not give them either."""
    own_attention = model.config._attn_implementation
    groups = _probe_groups(model)
    reference = _own_logps(model, groups)
    _check_finite(model, reference)
    allowed = tolerance.largest_gap(str(model.dtype).removeprefix("torch."))
    model.config._attn_implementation = PACKED
    packed_gap = _measure_gap(model, groups, reference)
    if packed_gap <= allowed:
        return model
    model.config._attn_implementation = own_attention
    padded_gap = _measure_gap(model, groups, reference)
    if not padded_gap <= allowed:  # not `>`: NaN must not pass
        raise UserError(
            f"{type(model).__name__} does more after its last layer than this pass knows: "
            f"log-probs differ from its own by {padded_gap:.2g}, so nothing computed with it could be "
            "trusted; use a model whose head is a matrix product (scaled or capped)"
        )
    _log.warning(
        "%s does not take part in packing (log-probs differ by %.2g from its own): "
        "padded instead, which is slower",
        type(model).__name__,
        packed_gap,
    )
    return model


def _check_finite(model: PreTrainedModel, logps: torch.Tensor) -> None:
    """Raise UserError, with the likely reason, where a model's own log-probs are not finite."""
    if logps.isfinite().all():
        return
    dtype = str(model.dtype).removeprefix("torch.")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"the model in {model.name_or_path} gives log-probs that are not finite: its weights hold "
                f"NaN or infinity in {dtype} ({name}); get the folder again, or take the checkpoint before it"
            )
    raise UserError(
        f"the model in {model.name_or_path} gives log-probs that are not finite, though its weights are: "
        f"{dtype} overflows; set model.dtype to bfloat16 or float32"
    )


def _probe_groups(model: PreTrainedModel) -> list[Group]:
    """Two groups of random tokens, always the same; the first prompt is longer than a window of up to 64."""
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    length = 7
    if window <= 64:
        length += window
    _, head = decoder_and_head(model)
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(0, head.vocabulary, (length + 9,), generator=draw).tolist()
    first_responses = [ids[length : length + 5], ids[length + 5 : length + 8]]
    second_responses = [ids[-4:], ids[-1:]]
    return [(ids[:length], first_responses), (ids[2:5], second_responses)]


@torch.no_grad()
def _own_logps(model: PreTrainedModel, groups: list[Group]) -> torch.Tensor:
    """(N,) log-probs by the model's own forward: one response at a time, with all logits."""
    parts: list[torch.Tensor] = []
    for prompt, responses in groups:
        for response in responses:
            ids = torch.tensor([[*prompt, *response]], device=model.device)
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            logps = logits.float().log_softmax(-1)
            targets = ids[0, len(prompt) :, None]
            parts.append(logps.gather(1, targets)[:, 0])
    return torch.cat(parts)


@torch.no_grad()
def _measure_gap(model: PreTrainedModel, groups: list[Group], reference: torch.Tensor) -> float:
    """The largest gap between `token_logps` and the reference; infinite if the model cannot run that way."""
    try:
        decoder, head = decoder_and_head(model)
        logps = token_logps(decoder, head, pack(groups, model.device))
        return (logps - reference).abs().max().item()
    except (TypeError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
        _log.debug("packing failed: %s", error)
        return float("inf")
