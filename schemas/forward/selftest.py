"""The self-test after loading: does the packed pass give the model's own log-probs?

It runs what will run: the model in its dtype, on its device, with the kernel that its tensors get there.
Three things must hold for packing.

- The log-probs are those of the model's own forward, up to rounding: `tolerance.self_test_gaps`.
- A response does not see its siblings: exchanging their tokens leaves its log-probs as they are. A
  state-space layer or a convolution runs on from one response into the next, by little in a model that is
  hardly trained.
- Attention was asked for the window that the config names. Some families have it in their mask alone, which
  the packed attention does not look at, and the probe is shorter than most windows.

A model that fails is padded, which must give its log-probs too, or the model is refused.
"""

import logging
import math
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from schemas import tolerance
from schemas.errors import UserError
from schemas.forward.attention import PACKED, own_attention
from schemas.forward.layout import Group, Layout, pack
from schemas.forward.logps import Head, decoder_and_head, token_logps
from schemas.network_errors import is_of_network
from schemas.rope import steady_positions

_log = logging.getLogger("prefmill")
# Tokens of the first response. Rounding in half precision is some hundredths of a nat a token, so its mean is
# taken over a hundred tokens; float32 needs few.
_UNIT = {torch.float32: 5}
_UNIT_HALF = 40
_LONGEST_WINDOW = 64  # that the probe's first prompt exceeds


class _Probe(NamedTuple):
    """Groups to run, those with other tokens in one response, and (N,) the model's own log-probs."""

    groups: list[Group]
    changed: list[Group]
    logps: torch.Tensor


class _Gap(NamedTuple):
    """How far a pass is from the model's own log-probs, in nat a token; `error`: why it did not run."""

    mean: float
    largest: float
    error: str = ""

    def is_rounding(self, allowed: tolerance.Gaps) -> bool:
        """False for NaN too."""
        return self.mean <= allowed.mean and self.largest <= allowed.largest

    def __str__(self) -> str:
        if self.error:
            return f"it fails: {self.error}"
        return (
            f"log-probs differ from its own by {self.mean:.2g} nat a token on average, "
            f"{self.largest:.2g} at most"
        )


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a model to the packed attention if it still gives its own log-probs then.

    Otherwise leave it to padding and warn. Raises UserError if padding does not give them either. The dtype
    is that of the head's weight, whatever the model says of itself."""
    model.config._attn_implementation = own_attention(model)
    _, head = decoder_and_head(model)
    groups, changed = _probe_groups(model, head)
    probe = _Probe(groups, changed, _own_logps(model, groups))
    _check_finite(model, head, probe.logps)
    spread = (probe.logps - probe.logps.mean()).abs().mean().item()
    dtype = _name(head)
    allowed = tolerance.self_test_gaps(dtype, spread)
    model.config._attn_implementation = PACKED
    why_not = _why_not_packed(model, probe, allowed, tolerance.self_test_leak(dtype, spread))
    if not why_not:
        return model
    model.config._attn_implementation = own_attention(model)
    padded = _measure(model, probe, pack(groups, probe.logps.device))
    if not padded.is_rounding(allowed):
        raise UserError(
            f"{type(model).__name__} does more than this pass knows, after its last layer perhaps: {padded}, "
            "so nothing computed with it could be trusted; use a model whose head is a matrix product (scaled"
            " or capped)"
        )
    _log.warning(
        "%s does not take part in packing (%s): padded instead, which is slower",
        type(model).__name__,
        why_not,
    )
    return model


def _why_not_packed(model: PreTrainedModel, probe: _Probe, allowed: tolerance.Gaps, leak: float) -> str:
    """Why a model that is switched to the packed attention cannot stay so; empty if it can."""
    device = probe.logps.device
    layout = pack(probe.groups, device)
    gap = _measure(model, probe, layout)
    if not gap.is_rounding(allowed):
        return str(gap)
    if _hides_a_window(model, layout):
        return "its window stands in its mask alone"
    leaked = _measure_leak(model, probe)
    if not leaked <= leak:
        return f"a response sees its sibling: {leaked:.2g} nat a token"
    return ""


@torch.no_grad()
def _measure(model: PreTrainedModel, probe: _Probe, layout: Layout) -> _Gap:
    """How far `token_logps` is from the model's own log-probs; infinite if the model cannot run that way."""
    try:
        decoder, head = decoder_and_head(model)
        gaps = (token_logps(decoder, head, layout) - probe.logps).abs()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each family fails in its own way
        if is_of_network(error):
            raise
        _log.debug("the self-test failed", exc_info=True)
        first_line = str(error).partition("\n")[0]
        return _Gap(math.inf, math.inf, f"{type(error).__name__}: {first_line[:200]}")
    return _Gap(gaps.mean().item(), gaps.max().item())


@torch.no_grad()
def _measure_leak(model: PreTrainedModel, probe: _Probe) -> float:
    """The mean change of all other log-probs, in nat, where the first response has other tokens.

    It is 0 where each response has its own arithmetic: the shapes are the same. Experts that run on more or
    fewer tokens may round differently."""
    decoder, head = decoder_and_head(model)
    device = probe.logps.device
    before = token_logps(decoder, head, pack(probe.groups, device))
    after = token_logps(decoder, head, pack(probe.changed, device))
    changed_tokens = len(probe.groups[0][1][0])
    return (after - before)[changed_tokens:].abs().mean().item()


def _hides_a_window(model: PreTrainedModel, layout: Layout) -> bool:
    """True if layers of the model see a part of the text alone and did not say so to their attention."""
    config = model.config.get_text_config()
    positions = _positions(config)
    kinds = set(getattr(config, "layer_types", None) or ())
    if "chunked_attention" in kinds and config.attention_chunk_size < positions:
        return True
    window = getattr(config, "sliding_window", None) or math.inf
    if kinds and "sliding_attention" not in kinds:
        return False
    return window < positions and not layout.windows


def _positions(config: PreTrainedConfig) -> float:
    """The longest text that the model takes, in tokens."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return limit or math.inf


def _check_finite(model: PreTrainedModel, head: Head, logps: torch.Tensor) -> None:
    """Raise UserError, with the likely reason, where a model's own log-probs are not finite."""
    if logps.isfinite().all():
        return
    dtype = _name(head)
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            raise UserError(
                f"the model in {model.name_or_path} gives log-probs that are not finite: its weights hold "
                f"NaN or infinity in {dtype} ({name}); get the folder again, or take the checkpoint before it"
            )
    raise UserError(
        f"the model in {model.name_or_path} gives log-probs that are not finite, though its weights are: "
        f"{dtype} overflows; set model.dtype to bfloat16 or float32"
    )


def _is_finite(weight: torch.Tensor) -> bool:
    """Whether all of a weight is; of one that is split over ranks, all of them ask and get one answer."""
    whole: torch.Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return bool(whole.isfinite().all())


def _name(head: Head) -> str:
    """The dtype that runs, as a recipe names it."""
    return str(head.weight.dtype).removeprefix("torch.")


def _probe_groups(model: PreTrainedModel, head: Head) -> tuple[list[Group], list[Group]]:
    """Two groups of random tokens, always the same, and these with other tokens in the first response.

    The first prompt is longer than a window of up to `_LONGEST_WINDOW`. All fit into the model's
    positions."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    if window > _LONGEST_WINDOW:
        window = 0
    unit = _UNIT.get(head.weight.dtype, _UNIT_HALF)
    positions = min(_positions(config), steady_positions(config.to_dict()) or math.inf)
    while unit > 2 and 2 * unit + 2 + window > positions:
        unit -= 1
    lengths = (unit + 2 + window, unit, unit // 2 + 1, unit // 2 + 1, unit - 1, 1, unit)
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(0, head.vocabulary, (sum(lengths),), generator=draw)
    prompt, first, second, other_prompt, third, last, other_first = (
        part.tolist() for part in ids.split(lengths)
    )
    other_group = (other_prompt, [third, last])
    return [(prompt, [first, second]), other_group], [(prompt, [other_first, second]), other_group]


@torch.no_grad()
def _own_logps(model: PreTrainedModel, groups: list[Group]) -> torch.Tensor:
    """(N,) log-probs by the model's own forward: one response at a time, with all logits."""
    _, head = decoder_and_head(model)
    device = head.weight.device
    parts: list[torch.Tensor] = []
    for prompt, responses in groups:
        for response in responses:
            ids = torch.tensor([[*prompt, *response]], device=device)
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            logps = logits.float().log_softmax(-1)
            targets = ids[0, len(prompt) :, None]
            parts.append(logps.gather(1, targets)[:, 0])
    return torch.cat(parts)
