"""Several responses under one prompt in one row of tokens, and their log-probs: the forward pass that engine and trainer share.

    layout      P P P A A A B B  Q Q Q C C D D D     two groups: prompt P with responses A, B; prompt Q with C, D
    positions   0 1 2 3 4 5 3 4  0 1 2 3 4 3 4 5     a response follows its prompt, whatever stands between
    attention   a response sees its prompt and itself; it does not see its siblings or another group

So a prompt is computed once for all its responses and nothing is padded. A response's last token is not fed: nothing is predicted from it.
Attention is one call a segment (a prompt or a response); in half precision on a GPU it is one flash kernel for all of them.
Only the positions that predict response tokens go through the head, in chunks: logits of batch x length x vocabulary never exist.

It stands in schemas, which otherwise computes nothing, because cache and policy agree only if the two sides run one and the same pass,
and engine and trainer do not import each other. It works with any decoder whose layers call transformers' attention interface; `check`
compares it with the model's own forward and says so where a model does not (then `padded` is the way: slower, always right).
"""

import contextlib
import ctypes
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch.nn.attention import varlen
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging as logging_of_transformers

from schemas.errors import UserError

Ids = Sequence[int] | np.ndarray
Group = tuple[Ids, Sequence[Ids]]  # a prompt and its responses

_log = logging.getLogger("prefmill")
_NAME = "prefmill_packed"
# float32 logits alive at once: 16 M (64 MiB) on a CPU, where more falls out of its caches; 64 M on a GPU, where fewer leave it idle.
_CHUNK_LOGITS = {"cpu": 1 << 24}
_CHUNK_LOGITS_GPU = 1 << 26


@dataclass
class Layout:
    """Where each token of the groups lies. T tokens are fed, N response tokens are predicted.

    `ids`, `positions`: (T,); `predict`: (N,) index of the token from which each response token is predicted; `targets`: (N,) those tokens;
    `segments`: for each group the length of its prompt and of each of its responses, as fed; `lengths`: (responses,) tokens predicted."""

    ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    segments: list[tuple[int, list[int]]]
    lengths: list[int]
    once: dict = field(default_factory=dict)  # masks and indices that attention makes once for all layers


def lay(groups: Sequence[Group], device: torch.device | str = "cpu") -> Layout:
    """The layout of groups, each with a prompt of at least one token and responses of at least one."""
    ids, positions, predict, targets, segments, lengths, at = [], [], [], [], [], [], 0
    for prompt, responses in groups:
        length = len(prompt)
        assert length and all(len(response) for response in responses), (
            "a prompt or a response without tokens cannot be scored"
        )
        ids.append(np.asarray(prompt))
        positions.append(np.arange(length))
        last, at = at + length - 1, at + length
        for response in responses:
            fed = len(response) - 1
            ids.append(np.asarray(response)[:fed])
            positions.append(np.arange(length, length + fed))
            predict += [np.array([last]), np.arange(at, at + fed)]
            targets.append(np.asarray(response))
            at += fed
        segments.append((length, [len(response) - 1 for response in responses]))
        lengths += [len(response) for response in responses]

    def flat(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return Layout(flat(ids), flat(positions), flat(predict), flat(targets), segments, lengths)


def _attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    sliding_window=None,
    softcap=None,
    packed=None,
    **_,
):
    """transformers' attention interface: query (1, heads, T, d), key and value (1, kv heads, T, d) to (1, T, heads, d)."""
    assert packed is not None, "the packed attention was called outside of token_logps"
    if _kernel_takes(query, key, value) and softcap is None and not dropout:
        return _one_kernel(query, key, value, scaling, sliding_window, packed), None
    repeat = query.shape[1] // key.shape[1]
    lengths = [prompt + sum(responses) for prompt, responses in packed.segments]
    out = []
    # `split`, not slices: the backward of a slice fills a zero tensor of the whole length for every segment.
    for (prompt, responses), q, k, v in zip(
        packed.segments, query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
    ):
        cuts = [prompt, *responses]
        k, v = (_repeated(x, repeat) for x in (k, v))
        q_parts, k_parts, v_parts = q.split(cuts, 2), k.split(cuts, 2), v.split(cuts, 2)
        out.append(
            _attend(q_parts[0], k_parts[0], v_parts[0], scaling, dropout, sliding_window, softcap, packed)
        )
        for i, length in enumerate(responses, 1):
            if length:
                keys, values = torch.cat([k_parts[0], k_parts[i]], 2), torch.cat([v_parts[0], v_parts[i]], 2)
                out.append(
                    _attend(q_parts[i], keys, values, scaling, dropout, sliding_window, softcap, packed)
                )
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def _kernel_takes(query, key, value) -> bool:
    """Whether flash attention runs on these: half precision on a GPU of compute capability 8 or more, heads of one size, a multiple of 8 up to 256."""
    size = value.shape[3]
    return (
        value.is_cuda
        and value.dtype in (torch.float16, torch.bfloat16)
        and query.shape[3] == key.shape[3] == size <= 256
        and size % 8 == 0
        and torch.cuda.get_device_capability(value.device) >= (8, 0)
    )


def _one_kernel(query, key, value, scaling, window, packed):
    """The same by flash attention for all segments in one call: each sees the keys that are gathered for it."""
    if "kernel" not in packed.once:
        packed.once["kernel"] = _gathered(packed.segments, query.device)
    where, *cuts = packed.once["kernel"]
    # Norms of single heads may leave float32 under autocast. A window counts the token itself; the kernel counts those before it.
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    keys, values = key.index_select(0, where), value.index_select(0, where)
    before = -1 if window is None else window - 1
    return varlen.varlen_attn(
        query,
        keys,
        values,
        *cuts,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )[None]


def _gathered(
    segments: list[tuple[int, list[int]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Where each segment's keys lie, one after the other; where queries and keys of a segment begin and the last ones end; the longest of either. A prompt
    and its first response are one segment, every other response is one that sees the prompt and itself, aligned at the end."""
    where, queries, keys, at = [], [0], [0], 0
    for prompt, (first, *others) in segments:
        spans = [(at, prompt + first, [])]
        for length in others:
            begin = spans[-1][0] + spans[-1][1]
            spans.append((begin, length, [np.arange(at, at + prompt)]))
        for begin, length, seen in spans:
            if length:
                where += [*seen, np.arange(begin, begin + length)]
                queries.append(queries[-1] + length)
                keys.append(keys[-1] + length + sum(map(len, seen)))
        at = spans[-1][0] + spans[-1][1]
    index = torch.from_numpy(np.concatenate(where)).to(device)
    ends = (torch.tensor(cuts, dtype=torch.int32, device=device) for cuts in (queries, keys))
    return index, *ends, int(np.diff(queries).max()), int(np.diff(keys).max())


def _repeated(x: torch.Tensor, repeat: int) -> torch.Tensor:
    return x if repeat == 1 else x.repeat_interleave(repeat, 1)


def _attend(q, k, v, scaling, dropout, window, softcap, packed):
    """Causal attention of the last q.shape[2] of k.shape[2] positions."""
    new, all_ = q.shape[2], k.shape[2]
    windowed = window is not None and all_ > window
    if softcap is not None:
        logits = softcap * torch.tanh(q @ k.transpose(2, 3) * (scaling or q.shape[3] ** -0.5) / softcap)
        mask = _mask(new, all_, window if windowed else None, q.device, packed)
        weights = logits.float().masked_fill(~mask, float("-inf")).softmax(-1).to(q.dtype)
        return F.dropout(weights, dropout) @ v
    if new == all_ and not windowed:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True)
    mask = _mask(new, all_, window if windowed else None, q.device, packed)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)


def _mask(new: int, all_: int, window: int | None, device: torch.device, packed: Layout) -> torch.Tensor:
    """(new, all_) bool, aligned at the bottom right; made once for all layers."""
    key = (new, all_, window)
    if key not in packed.once:
        mask = torch.ones(new, all_, dtype=torch.bool, device=device).tril(all_ - new)
        packed.once[key] = mask if window is None else mask.triu(all_ - new - window + 1)
    return packed.once[key]


AttentionInterface.register(_NAME, _attention)


def check_device(wanted: str) -> None:
    """Raises UserError where `model.device` names something that is not here."""
    if wanted == "auto":
        return
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(
            f"model.device = {wanted}: expected auto, cpu, cuda or one GPU such as cuda:1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"model.device = {wanted}, but torch finds {torch.cuda.device_count()} GPUs here; set it to auto or cpu, or install a CUDA build of torch"
        )


def load(path: Path, dtype: torch.dtype, device: torch.device | str) -> PreTrainedModel:
    """A model folder's weights on a device, ready for `token_logps`; raises UserError that names what is wrong with the folder.

    Safetensors only, and no code of the folder's is run. Its generation_config is left behind: it would bend sampling unasked, and many
    published ones cannot be saved again."""
    logging_of_transformers.disable_progress_bar()
    if torch.device(device).type == "cpu":
        _keep_freed_memory()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the model in {path} does not load: {str(error).strip().splitlines()[0]}") from None
    # transformers fills what is missing with random numbers and goes on.
    if absent := sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"]))):
        raise UserError(
            f"the weights in {path} are not whole: {len(absent)} tensors are missing or of another shape, such as {absent[0]}; get the folder again"
        )
    model.generation_config = GenerationConfig()
    # eval: dropout would make a model differ from its own log-probs; the DPO authors' code switches it off too.
    return prepare(model.to(device).eval())


def _keep_freed_memory() -> None:
    """Tells glibc to keep what was freed for the next step. It would give large tensors back, and they would be faulted in anew, page by page: 55 thousand
    faults and a seventh of a step's time at 5 million parameters. The peak is the same. Changes no number."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large ones lie in the heap too


def token_logps(model: PreTrainedModel, layout: Layout) -> torch.Tensor:
    """(N,) float32 log-probs of all response tokens, group after group; with a graph where gradients are on.

    The model must have been given to `prepare`."""
    return head(model, hidden(model, layout), layout.targets)


def head(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N,) float32 log-probs of `targets` (N,) from the hidden states (N, hidden) that predict them, `head_rows` of them at a time."""
    rows = head_rows(model)
    if len(targets) <= rows:
        return _chunk(model, hidden, targets)
    # Checkpointed: the backward makes a chunk's logits again, so that one chunk of them is alive at a time.
    run = functools.partial(checkpoint, _chunk, use_reentrant=False) if torch.is_grad_enabled() else _chunk
    return torch.cat(
        [
            run(model, hidden_part, part)
            for hidden_part, part in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
    )


def head_rows(model: PreTrainedModel) -> int:
    """How many rows of logits are made at once."""
    return max(
        1,
        _CHUNK_LOGITS.get(model.device.type, _CHUNK_LOGITS_GPU)
        // model.get_output_embeddings().weight.shape[0],
    )


def hidden(model: PreTrainedModel, layout: Layout) -> torch.Tensor:
    """(N, hidden) last hidden states of the positions that predict."""
    if model.config._attn_implementation != _NAME:
        return _hidden_padded(model, layout)
    # A mask of four dimensions is passed through as it is; the packed attention does not look at it.
    none = torch.zeros(1, 1, 1, 1, device=layout.ids.device)
    out = model.base_model(
        layout.ids[None],
        position_ids=layout.positions[None],
        attention_mask=none,
        use_cache=False,
        packed=layout,
    )
    return out.last_hidden_state[0].index_select(0, layout.predict)


def _hidden_padded(model: PreTrainedModel, layout: Layout) -> torch.Tensor:
    """The same by the model's own attention: every response with its prompt in a row of its own, padded at the right."""
    rows, keep, at = [], [], 0
    for prompt, responses in layout.segments:
        head, at = layout.ids[at : at + prompt], at + prompt
        for length in responses:
            rows.append(torch.cat([head, layout.ids[at : at + length]]))
            keep.append((prompt - 1, prompt + length))
            at += length
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    hidden = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    return torch.cat([row[begin:end] for row, (begin, end) in zip(hidden, keep, strict=True)])


def _chunk(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    # What some families do to their logits after the head; `check` refuses a model that does something else.
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale  # Cohere
    if scale := getattr(config, "logits_scaling", None):
        logits = logits / scale  # Granite
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)  # Gemma
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Switches a model to the packed attention, if it then gives the log-probs that it gives of itself; else leaves it to padding, and says so."""
    own = model.config._attn_implementation
    want = _reference(model)
    model.config._attn_implementation = _NAME
    gap = _gap(model, want)
    if gap <= _tolerance(model):
        return model
    model.config._attn_implementation = own
    padded = _gap(model, want)
    if padded > _tolerance(model):
        raise UserError(
            f"{type(model).__name__} does more after its last layer than this pass knows: log-probs differ from its own by {padded:.2g}, "
            "so nothing computed with it could be trusted; use a model whose head is a matrix product (scaled or capped)"
        )
    _log.warning(
        "%s does not take part in packing (log-probs differ by %.2g from its own): padded instead, which is slower",
        type(model).__name__,
        gap,
    )
    return model


def _tolerance(model: PreTrainedModel) -> float:
    return 1e-3 if model.dtype == torch.float32 else 0.25


def _probe(model: PreTrainedModel) -> list[Group]:
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    length = 7 + (window if window <= 64 else 0)
    ids = torch.randint(
        0,
        model.get_output_embeddings().weight.shape[0],
        (length + 9,),
        generator=torch.Generator().manual_seed(7),
    ).tolist()
    return [
        (ids[:length], [ids[length : length + 5], ids[length + 5 : length + 8]]),
        (ids[2:5], [ids[-4:], ids[-1:]]),
    ]


@torch.no_grad()
def _reference(model: PreTrainedModel) -> torch.Tensor:
    """What the model says of itself: one response at a time, all logits, by its own forward."""
    found = []
    for prompt, responses in _probe(model):
        for response in responses:
            ids = torch.tensor([[*prompt, *response]], device=model.device)
            logps = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            found.append(logps.gather(1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(found)


@torch.no_grad()
def _gap(model: PreTrainedModel, want: torch.Tensor) -> float:
    try:
        return (token_logps(model, lay(_probe(model), model.device)) - want).abs().max().item()
    except (TypeError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
        _log.debug("packing failed: %s", error)
        return float("inf")
