"""What a recipe leaves to the machine, taken as on the device that is planned for and not as on this one."""

from dataclasses import replace

from engine.planning.devices import Device
from schemas import dtypes
from schemas.recipe import Recipe
from schemas.sections import Model
from schemas.store import Store

_DTYPE = "bfloat16"  # which every device of the table has


def for_device(recipe: Recipe, store: Store, device: Device) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe as a machine with vLLM and such GPUs resolves it, with a line for each thing that was auto.

    A run folder keeps its dtype. A recipe whose model.device is cpu stays as it is."""
    model = recipe.sections.get("model")
    if isinstance(model, Model) and model.device == "cpu":
        return recipe, ()
    recipe, lines = dtypes.resolved(recipe, store, _DTYPE)
    model = recipe.sections.get("model")
    if not isinstance(model, Model) or model.backend != "auto":
        return recipe, lines
    backend = "hf" if model.quantization != "none" else "vllm"
    line = f"model.backend = auto: {backend}, as on {device.name} where vLLM is installed"
    return recipe.with_sections(model=replace(model, backend=backend)), (*lines, line)
