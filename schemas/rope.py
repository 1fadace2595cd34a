"""Up to which length a model's numbers for a text do not depend on what runs beside it.

transformers chooses the frequencies of two kinds of rotary positions once a pass, by the longest text of it
(`modeling_rope_utils.dynamic_rope_update`): longrope has other ones beyond the original length, dynamic has
other ones for each length beyond max_position_embeddings. A longer text would change those beside it, and a
sample would change its own beginning as it grows. Texts within that length have the same frequencies in every
pass.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.errors import UserError

_KEYS = ("model_type", "rope_parameters", "rope_scaling", "max_position_embeddings")
_ORIGINAL = "original_max_position_embeddings"
_OLD_NAMES = ("su",)  # of longrope
_OLD_NAMES_OF_PHI = ("su", "yarn")  # as Phi's classes read them
_PHI = ("phi3", "phi4_multimodal")


def steady_positions(config: Mapping[str, Any]) -> int:
    """The most tokens of a text, prompt and response together; 0 where there is no such limit.

    `config`: a text model's, as config.json has it."""
    limits: list[int] = []
    for rope in _ropes(config):
        kind = _kind(rope, config.get("model_type"))
        limit: Any = None
        if kind == "longrope":
            limit = config.get(_ORIGINAL) or rope.get(_ORIGINAL) or config.get("max_position_embeddings")
        elif "dynamic" in kind:
            limit = config.get("max_position_embeddings")
        if isinstance(limit, int | float) and limit > 0:
            limits.append(int(limit))
    return min(limits, default=0)


def check_length(config: Any, tokens: int) -> None:
    """Raise UserError where a text of so many tokens is beyond that limit; `config`: transformers'."""
    read = _keys_of(config)
    limit = steady_positions(read)
    if not limit or tokens <= limit:
        return
    kinds = sorted({_kind(rope, read["model_type"]) for rope in _ropes(read)})
    raise UserError(
        f"a text of {tokens:,} tokens is given to a model whose rope is {', '.join(kinds)}: beyond {limit:,} "
        "tokens its numbers depend on the texts beside it, so such texts are not run; use texts of up to "
        f"{limit:,} tokens (logprobs.max_length = {limit} leaves out the pairs that are longer), or a model "
        "whose rope does not depend on the batch"
    )


def steady_positions_of(config: Any) -> int:
    """`steady_positions` of transformers' config of a text model."""
    return steady_positions(_keys_of(config))


def _keys_of(config: Any) -> dict[str, Any]:
    """What of transformers' config says how positions are turned."""
    return {name: getattr(config, name, None) for name in (*_KEYS, _ORIGINAL)}


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tables that say how positions are turned: one, or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        table = config.get(name)
        if not isinstance(table, Mapping):
            continue
        nested = [part for part in table.values() if isinstance(part, Mapping)]
        yield from nested or [table]


def _kind(rope: Mapping[str, Any], model_type: Any) -> str:
    """A table's rope type, by its name of today."""
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    old_names = _OLD_NAMES_OF_PHI if model_type in _PHI else _OLD_NAMES
    return "longrope" if kind in old_names else kind
