"""What a device does in a second, and how long a model's work takes on it: a roofline.

- A forward pass takes 2 operations for each weight and token, and 4 × layers × heads × head size × context
  for the attention of a token. It is bound by the device's operations.
- A step of sampling reads all weights and the keys and values of all sequences that run side by side. It is
  bound by the device's memory, or by operations where many run.
- The peaks are the makers' data sheets (dense, no sparsity). Of them a pass is taken to reach COMPUTED and a
  step READ, which is usual and was not measured here; transformers' steps take a millisecond a layer besides,
  since each kernel is launched from Python. `--probe` measures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.models.spec import ResolvedModel
from engine.planning.stand_in import Asked
from schemas.errors import UserError
from schemas.model_content import read_json
from schemas.model_files import CONFIG, model_home, weight_files
from schemas.tensor_headers import tensors_of

COMPUTED = 0.5  # of the peak operations
READ = 0.6  # of the peak bandwidth
_LAUNCHES = 1e-3  # seconds a layer and step
_SEQUENCES = {"vllm": 256, "hf": 64}  # that are sampled side by side
_KEPT_FREE = 0.1  # of the memory
_NUMBER_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass(frozen=True)
class Device:
    """A kind of device. `half`, `single`: operations a second in 16 and 32 bits; `bandwidth`: bytes a second;
    `memory`: bytes."""

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float


DEVICES = {
    "b200": Device("B200", 2250e12, 80e12, 8.0e12, 180e9),
    "h200": Device("H200", 989e12, 67e12, 4.8e12, 141e9),
    "h100": Device("H100 SXM", 989e12, 67e12, 3.35e12, 80e9),
    "mi300x": Device("MI300X", 1307e12, 163e12, 5.3e12, 192e9),
    "a100": Device("A100 80 GB", 312e12, 19.5e12, 2.04e12, 80e9),
    "a100-40": Device("A100 40 GB", 312e12, 19.5e12, 1.56e12, 40e9),
    "l40s": Device("L40S", 362e12, 92e12, 0.864e12, 48e9),
    "a10": Device("A10", 125e12, 31e12, 0.6e12, 24e9),
    "l4": Device("L4", 121e12, 30e12, 0.3e12, 24e9),
    "rtx4090": Device("RTX 4090", 165e12, 83e12, 1.01e12, 24e9),
}


@dataclass(frozen=True)
class ModelSize:
    """What of a model settles its speed. `weights`: all of them; `computed`: those that a token goes through,
    without the table of embeddings and the experts that it does not use."""

    weights: int
    computed: float
    layers: int
    heads: int
    kv_heads: int
    head_size: int

    def kv_bytes(self, number_bytes: float) -> float:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * number_bytes


def size_of(model: ResolvedModel) -> ModelSize:
    """By the headers of its files and its config. Nothing is loaded."""
    path = model_home(model.identity.path)
    config = read_json(path / CONFIG)
    settings: Mapping[str, Any] = config
    if isinstance(config.get("text_config"), dict):
        settings = config["text_config"]
    elements: dict[str, int] = {}
    for file in weight_files(path):
        for name, tensor in tensors_of(path / file).items():
            elements[name] = math.prod(tensor.shape)
    weights = sum(elements.values())
    used = float(weights)
    experts = _first(settings, ("num_experts", "num_local_experts", "n_routed_experts"), 0)
    if experts:
        chosen = _first(settings, ("num_experts_per_tok", "moe_top_k"), 2)
        of_experts = sum(count for name, count in elements.items() if ".experts." in name)
        used -= of_experts * (1 - min(1.0, chosen / experts))
    has_head = any(name.endswith("lm_head.weight") for name in elements)
    if has_head:
        used -= sum(count for name, count in elements.items() if "embed_tokens" in name)
    heads = _first(settings, ("num_attention_heads", "n_head", "n_heads"), 1)
    width = _first(settings, ("hidden_size", "n_embd", "d_model"), 1)
    return ModelSize(
        weights=weights,
        computed=used,
        layers=_first(settings, ("num_hidden_layers", "n_layer", "n_layers"), 1),
        heads=heads,
        kv_heads=_first(settings, ("num_key_value_heads",), heads),
        head_size=_first(settings, ("head_dim",), max(1, width // heads)),
    )


def _first(settings: Mapping[str, Any], names: tuple[str, ...], otherwise: int) -> int:
    """The first of some settings that is there."""
    for name in names:
        value = settings.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return otherwise


def sequences_at_once(model: ResolvedModel) -> int:
    """How many sequences its backend samples side by side, where there is memory for them."""
    wanted = int(model.spec.config.vllm.get("max_num_seqs", 0))
    return wanted or _SEQUENCES.get(model.spec.backend, 1)


@dataclass(frozen=True)
class Fit:
    """A model on a device, or on several that share it. `needs`: bytes of weights, keys and values on each;
    `side_by_side`: sequences that are sampled at once."""

    devices: int
    needs: float
    side_by_side: int


@dataclass(frozen=True)
class Speed:
    """How long a model's work takes on a device."""

    device: Device
    model: ResolvedModel
    size: ModelSize

    @property
    def _together(self) -> int:
        """Devices that hold one copy."""
        arguments = self.model.spec.config.vllm if self.model.spec.backend == "vllm" else {}
        parallel = (arguments.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
        return math.prod(map(int, parallel))

    @property
    def _number_bytes(self) -> float:
        return _NUMBER_BYTES.get(self.model.spec.config.dtype, 2.0)

    @property
    def _weight_bytes(self) -> float:
        per_weight = 0.5 if self.model.spec.config.quantization == "nf4" else self._number_bytes
        return per_weight * self.size.weights

    @property
    def _operations(self) -> float:
        """A second."""
        peak = self.device.single if self._number_bytes == 4 else self.device.half
        return self._together * peak * COMPUTED

    def fit(self, context: float) -> Fit:
        """How it lies in memory with sequences of so many tokens."""
        wanted = sequences_at_once(self.model)
        room = self._together * self.device.memory * (1 - _KEPT_FREE) - self._weight_bytes
        of_one = max(1.0, context * self.size.kv_bytes(self._number_bytes))
        side_by_side = max(1, min(wanted, int(max(0.0, room) / of_one)))
        needs = (self._weight_bytes + side_by_side * of_one) / self._together
        return Fit(self._together, needs, side_by_side)

    def seconds(self, asked: Asked) -> float:
        """Of one copy of the model for all that is asked of it."""
        shares = self.model.spec.backend != "vllm"  # vLLM runs a prompt anew for each response to be scored
        scored = asked.scored_tokens if shares else asked.unshared_tokens
        passes = asked.generate_prompt_tokens + scored
        context = asked.unshared_tokens / max(1.0, asked.scored) / 2
        seconds = passes * self._operations_of_token(context) / self._operations
        if not asked.sampled_tokens:
            return seconds
        whole = (asked.generate_prompt_tokens + asked.sampled_tokens) / max(1.0, asked.generated)
        side_by_side = max(1.0, min(self.fit(whole).side_by_side, asked.generated))
        read = self._weight_bytes + side_by_side * whole * self.size.kv_bytes(self._number_bytes)
        bandwidth = self._together * self.device.bandwidth * READ
        computed = side_by_side * self._operations_of_token(whole / 2) / self._operations
        step = max(read / bandwidth, computed)
        if shares:
            step += _LAUNCHES * self.size.layers
        return seconds + asked.sampled_tokens / side_by_side * step

    def _operations_of_token(self, context: float) -> float:
        return 2 * self.size.computed + 4 * self.size.layers * self.size.heads * self.size.head_size * context


def device_named(name: str) -> Device:
    """Raises UserError for one that is not in the table."""
    device = DEVICES.get(name.lower())
    if device is None:
        raise UserError(
            f"--device {name}: expected one of {', '.join(DEVICES)}, or cpu for this machine's own; for any "
            "other take the nearest of these, or measure on it with --probe"
        )
    return device
