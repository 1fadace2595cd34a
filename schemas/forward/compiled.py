"""torch.compile of what a layer does between its matrix products: norms, rotary positions, MLP.

On a GPU these read and write memory more than they compute: 48 % of a step's shortest time at 1 B parameters.

The law is that compiling changes no bit of the forward pass in half precision. Any change, be it one element
in ten thousand, grows in the layers above to what another dtype would give: 0.046 nat a token on SmolLM2-135M
in bfloat16, where cache and policy must agree within 0.001. So:

- what eager rounds between two operations is rounded here too (inductor's emulate_precision_casts);
- the mean in a norm is left to eager's own kernel, since another order of its sum is another number;
- each kind of module is tried beside its eager self before it is kept.

A kind that differs, or that does not compile, stays eager, and that is said once. Modules are compiled in
place, so parameters keep their names and places: for FSDP2, for PEFT, for weights that are cast for a pass.
"""

import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from schemas.forward.logps import decoder_and_head

_log = logging.getLogger("prefmill")
_ROTARY = "apply_rotary_pos_emb"  # transformers' name for it, in every family's module
_IS_COMPILED = "_prefmill_compiled"  # set on a function that is
_ROWS = 512  # of the trial
_ENTRIES = 64  # that torch keeps of one function: classes x gradients on and off x numbers of dimensions
# Bits as eager's. `shape_padding` would run matrix products of other shapes.
_OPTIONS = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
    "shape_padding": False,
}
_ROUNDING = 1e-5  # in float32, of the largest value


@torch.library.custom_op("prefmill::mean_of_last", mutates_args=())
def _mean_of_last(x: torch.Tensor) -> torch.Tensor:
    """The mean over the last dimension, which stays; by eager's kernel."""
    return x.mean(-1, keepdim=True)


@_mean_of_last.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], 1))


def _keep_shape(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    ctx.shape = inputs[0].shape


def _mean_backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
    return (gradient / ctx.shape[-1]).expand(ctx.shape)


_mean_of_last.register_autograd(_mean_backward, setup_context=_keep_shape)


def is_wanted(setting: str, device_type: str) -> bool:
    """Whether to compile, by train.compile; auto is on a GPU, where it pays."""
    return setting == "true" or (setting == "auto" and device_type == "cuda")


def compile_regions(
    model: PreTrainedModel,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> int:
    """Compile norms, rotary positions and MLPs in place; returns how many of them.

    `dtype`, `device`: of the forward pass; by default the weights' own. Call it before the weights are
    sharded. Each kind is tried with drawn numbers in place of its weights, so that every rank decides alike,
    also one that has no weights yet."""
    torch._dynamo.config.recompile_limit = max(_ENTRIES, torch._dynamo.config.recompile_limit)
    _, head = decoder_and_head(model)
    dtype = dtype or head.weight.dtype
    device = device or head.weight.device
    hidden = model.config.get_text_config().hidden_size
    compiled = 0
    for modules in _by_class(model).values():
        if _keeps_its_numbers(modules[0], hidden, dtype, device):
            for module in modules:
                _compile(module)
            compiled += len(modules)
    for module_name in sorted({type(module).__module__ for module in model.modules()}):
        compiled += _compile_rotary(module_name, dtype, device)
    return compiled


def _by_class(model: nn.Module) -> dict[type[nn.Module], list[nn.Module]]:
    """The modules to compile. torch's own norms are one kernel already."""
    found: dict[type[nn.Module], list[nn.Module]] = {}
    for module in model.modules():
        if not any(True for _ in module.parameters()):
            continue
        kind = type(module)
        is_norm = kind.__name__.endswith("RMSNorm") and _width(module) and not isinstance(module, nn.RMSNorm)
        if is_norm or kind.__name__.endswith("MLP"):
            found.setdefault(kind, []).append(module)
    return found


def _width(module: nn.Module) -> int:
    """The numbers that a norm has weights for; 0 if it has none."""
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() == 1 else 0


def _compile(module: nn.Module) -> None:
    module.compile(dynamic=True, backend=_backend)


def _keeps_its_numbers(module: nn.Module, hidden: int, dtype: torch.dtype, device: torch.device) -> bool:
    """True if the module gives the same numbers compiled, with drawn weights; it is left as it was."""
    draw = torch.Generator().manual_seed(7)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in module.named_parameters():
        if weight.is_floating_point():
            scale = weight.shape[-1] ** -0.5 if weight.dim() > 1 else 1.0
            drawn = torch.randn(weight.shape, generator=draw) * scale
            weights[name] = drawn.to(device, dtype).requires_grad_()
    rows = torch.randn(1, _ROWS, _width(module) or hidden, generator=draw)
    x = rows.to(device, dtype).requires_grad_()

    def run() -> torch.Tensor:
        output: torch.Tensor = functional_call(module, weights, x)
        return output

    try:
        eager = run().detach()
    except (TypeError, RuntimeError, AttributeError):  # it takes or gives something else than hidden states
        return False
    _compile(module)
    try:
        return _are_same(eager, run, type(module).__name__)
    finally:
        module._compiled_call_impl = None


def _are_same(eager: torch.Tensor, run: Callable[[], torch.Tensor], name: str) -> bool:
    """True if `run`, which is compiled, works, backward too, and gives the eager numbers. Says why not."""
    try:
        compiled = run()
        compiled.float().sum().backward()  # its compiler is called here
    except Exception as error:  # each compiler fails in its own way
        text = " ".join(str(error).split())
        _log.warning(
            "%s is not compiled: %s: %s; it runs eagerly, which is slower",
            name,
            type(error).__name__,
            text[:200],
        )
        return False
    gap = (compiled.detach() - eager).abs().max().item()
    allowed = 0.0
    if eager.dtype == torch.float32:
        allowed = _ROUNDING * eager.abs().max().item()
    if gap <= allowed:
        return True
    _log.warning("%s is not compiled: its numbers would change by %.2g; it runs eagerly", name, gap)
    return False


def _compile_rotary(module_name: str, dtype: torch.dtype, device: torch.device) -> int:
    """Compile the function of a family that turns queries and keys by their positions; returns 0 or 1.

    It is a function of its Python module, so it is compiled for all models of the family in this process."""
    module = sys.modules[module_name]
    function = getattr(module, _ROTARY, None)
    if function is None or hasattr(function, _IS_COMPILED):
        return 0
    if list(inspect.signature(function).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return 0
    draw = torch.Generator().manual_seed(7)
    heads, angles = (torch.randn(1, number, _ROWS, 16, generator=draw) for number in (6, 2))
    q, k = (part.to(device, dtype).requires_grad_() for part in heads.split((4, 2), 1))
    cos, sin = angles.to(device, dtype)[0]

    def joined(turn: Callable[..., Any]) -> torch.Tensor:
        return torch.cat(turn(q, k, cos[None], sin[None]), 1)

    compiled: Any = torch.compile(function, dynamic=True, backend=_backend)
    try:
        eager = joined(function).detach()
    except (TypeError, RuntimeError):  # a family that turns otherwise
        return 0
    if not _are_same(eager, lambda: joined(compiled), f"{module_name}.{_ROTARY}"):
        return 0
    setattr(compiled, _IS_COMPILED, True)
    setattr(module, _ROTARY, compiled)
    return 1


def _backend(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """Inductor, with means over the last dimension left to eager."""
    from torch._inductor import list_options
    from torch._inductor.compile_fx import compile_fx

    known = list_options()  # by this version of torch
    options = {name: value for name, value in _OPTIONS.items() if name in known}
    if torch.are_deterministic_algorithms_enabled():
        options["deterministic"] = True
    for node in graph.graph.nodes:
        if (
            node.target in ("mean", torch.mean)
            and node.kwargs == {"keepdim": True}
            and node.args[1:] == (-1,)
        ):
            node.op = "call_function"
            node.target = torch.ops.prefmill.mean_of_last.default
            node.args = node.args[:1]
            node.kwargs = {}
    graph.recompile()
    return compile_fx(graph, inputs, config_patches=options)
