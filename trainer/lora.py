"""[train.lora]: an adapter is trained in the place of the model's own weights, by PEFT.

- The adapter is put into the model's modules. The model stays the object that it was, so every pass, and
  every way of sharing it, is the same as without one.
- The base is frozen and held in the dtype that it is computed in (or in 4 bits, model.quantization). What is
  trained is held as train.weights says, float32 by default, and lowered for a pass like any weight.
- A is drawn by the recipe's seed, B is 0: at step 0 the policy is the base, to the last bit.
- Dropout is awake in passes that a backward pass follows, and in no other.

LoRA arXiv 2106.09685, DoRA 2402.09353, rsLoRA 2312.03732, QLoRA 2305.14314.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from schemas import quantization
from schemas.adapters import is_adapter
from schemas.errors import UserError
from schemas.forward import quantized
from schemas.forward.hiding import hidden
from schemas.sections import Lora, Model, Train
from trainer.losses import lora_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_ALL_LINEAR = "all-linear"
_PREFIX = "base_model.model."  # of a module's name, in PEFT's files
_SHOWN_MODULES = 12  # named in an error


@dataclass(frozen=True)
class Adapter:
    """An adapter that is to be put on a base.

    `base`, `revision`: what adapter_config.json calls the base by; `folder`: a checkpoint whose tensors it
    begins with, None for one that is drawn by `seed`."""

    settings: Lora
    seed: int
    base: str
    revision: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Placed:
    """An adapter that is in a model's modules.

    `config`: what adapter_config.json says; `names`: of the trained tensors, in the model -> in PEFT's
    file; `seed`: of the recipe."""

    config: dict[str, Any]
    names: dict[str, str]
    seed: int

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """What PEFT's file holds, by its names; shared among the ranks as the model is."""
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, in_file in self.names.items():
            yield in_file, own[name]


def adapter_of(config: Train, model: Model, seed: int) -> Adapter | None:
    """The adapter that a recipe asks for; None where the model's own weights are trained."""
    settings = lora_of(config)
    if settings is None:
        return None
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        return Adapter(settings, seed, str(folder.absolute()))
    return Adapter(settings, seed, model.name, model.revision)


def check(config: Train, model: Model) -> None:
    """Raise UserError for what cannot work together, or needs a package that is not installed."""
    settings = lora_of(config)
    kind = model.quantization
    if settings is None:
        if kind != quantization.NONE:
            raise UserError(
                f'model.quantization = "{kind}", but there is no [train.lora]: weights in 4 bits '
                "cannot be trained; add [train.lora], which trains an adapter on them, or set "
                'model.quantization = "none" (the log-probs are then made again)'
            )
        return
    if importlib.util.find_spec("peft") is None:
        raise UserError('[train.lora] needs peft: pip install "prefmill[peft]"')
    if is_adapter(Path(model.name).expanduser()):
        raise UserError(
            f"[train.lora] on {model.name}, which is an adapter itself: its base must be a whole model; "
            f"make one with `trainer merge {model.name} -o FOLDER` and name that folder"
        )
    quantization.check(kind)
    if kind != quantization.NONE and config.parallel == "fsdp":
        raise UserError(
            f'train.parallel = "fsdp" splits weights among ranks, and those in 4 bits (model.quantization = '
            f'"{kind}") have their scales beside them, which it would not split: set '
            'train.parallel = "ddp"'
        )


def put_on(model: "PreTrainedModel", adapter: Adapter, dtype: torch.dtype) -> Placed:
    """Put an adapter into a model's modules and freeze the rest. `dtype`: of what is trained.

    Raises UserError where it does not fit the model."""
    _check_names(model, adapter.settings)
    with hidden("torchao"), quantized.hidden_if_broken():
        import peft
    config = _config_of(adapter.settings)
    try:
        with (
            hidden("torchao"),
            quantized.hidden_if_broken(),
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(adapter.seed)
            wrapped = peft.PeftModel(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UserError(_does_not_fit(model, adapter.settings, str(error))) from None
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    model.eval()  # PEFT's modules are new
    placed = Placed(_config_to_save(config, adapter), _names(wrapped), adapter.seed)
    _check_all_saved(model, placed)
    return placed


def _config_of(settings: Lora) -> "LoraConfig":
    from peft import LoraConfig

    targets: str | list[str] = list(settings.target_modules)
    if targets == [_ALL_LINEAR]:
        targets = _ALL_LINEAR
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        modules_to_save=sorted(settings.modules_to_save) or None,
        bias=settings.bias,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
    )


def _config_to_save(config: "LoraConfig", adapter: Adapter) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it, in an order that does not change from run to run."""
    values: dict[str, Any] = config.to_dict()
    values |= {
        "base_model_name_or_path": adapter.base,
        "revision": adapter.revision,
        "inference_mode": True,
        "peft_type": "LORA",
    }
    for name, value in values.items():
        if isinstance(value, set):
            values[name] = sorted(value)
    return values


def _names(wrapped: "PeftModel") -> dict[str, str]:
    """The names of the trained tensors, in the model -> in PEFT's file, as PEFT itself maps them."""
    from peft import get_peft_model_state_dict

    state = wrapped.state_dict(keep_vars=True)
    saved: dict[str, torch.Tensor] = get_peft_model_state_dict(
        wrapped, state_dict=state, save_embedding_layers=False
    )
    name_of = {id(tensor): name for name, tensor in saved.items()}
    names: dict[str, str] = {}
    for name, tensor in state.items():
        if id(tensor) in name_of:
            names[name.removeprefix(_PREFIX)] = name_of[id(tensor)]
        elif tensor.requires_grad:
            # With bias = "lora_only" PEFT looks for biases where they no longer are.
            names[name.removeprefix(_PREFIX)] = name
    return names


def _check_all_saved(model: nn.Module, placed: Placed) -> None:
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and set(trained) <= placed.names.keys()
    assert len(set(placed.names.values())) == len(placed.names)


def _check_names(model: "PreTrainedModel", settings: Lora) -> None:
    """Raise UserError for a name that is no module's: PEFT takes the others and says nothing of it."""
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    targets = settings.target_modules
    asked = {
        "target_modules": () if list(targets) == [_ALL_LINEAR] else targets,
        "modules_to_save": settings.modules_to_save,
    }
    for key, names in asked.items():
        for name in names:
            if not any(f".{module}".endswith(f".{name}") for module in modules):
                reason = f"no module of it is named {name}, which {key} asks for"
                raise UserError(_does_not_fit(model, settings, reason))


def _does_not_fit(model: "PreTrainedModel", settings: Lora, error: str) -> str:
    """The error that names the modules which could be meant."""
    found: dict[str, None] = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight") and module.weight.dim() > 1:
            found[name.rpartition(".")[2]] = None
    names = ", ".join(list(found)[:_SHOWN_MODULES])
    reason = " ".join(error.split())[:300]
    return (
        f"[train.lora] does not fit {type(model).__name__}: {reason} (target_modules = "
        f"{list(settings.target_modules)}); modules of it are {names}"
    )


def remark_on_ties(model: "PreTrainedModel") -> str | None:
    """What is to be known of an adapter on one of two modules that share their weight; None elsewhere."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return None
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if not any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in ends):
        return None
    return (
        "[train.lora] changes the embedding or the head, which are one weight in this model: PEFT opens the "
        "adapter, but it cannot be merged into the base"
    )


def dropouts_of(model: nn.Module) -> list[nn.Module]:
    """The modules that drop a part of what an adapter is given."""
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and ".lora_dropout." in f".{name}":
            found.append(module)
    return found


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """What the dropout of a rank's passes in a step is drawn by."""
    digest = hashlib.sha256(f"dropout {seed} {step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
