"""What of a recipe's text is about training: [train] and its tables, by the model's size and the memory."""

from collections.abc import Mapping
from typing import Any

from engine.init import memory
from engine.init.memory import Fit
from engine.init.methods import Method, bmc_task_of, other_bmc_tasks
from engine.init.model_look import ModelLook, in_millions
from engine.init.toml_text import Sections, add_section, comment, sections_of, value_in, with_value
from schemas.sections import Train

_TINY = 50_000_000  # parameters below which the papers' learning rates move nothing
_OF_ADAPTERS = 5e-6
_WHY_OF_ADAPTERS = (
    "Ten times that of all weights, as Zephyr's DPO has it (alignment-handbook: 5e-6 with an adapter, 5e-7 "
    "without). One cache serves any that you try."
)
_LORA = """# An adapter is trained in place of the weights: delete this table to train them all.
[train.lora]
r = 16                   # rank of its two matrices: a higher one can learn more and takes more memory
alpha = 32.0             # its update is scaled by alpha/r
target_modules = ["all-linear"] # every linear layer but the head; or names, such as "q_proj", "v_proj"
"""


def optimizer_of(method: Method) -> str:
    """The optimizer of a method's recipe."""
    return str(value_in(sections_of(method.recipe)["train"], "optimizer") or Train().optimizer)


def set_bmc_task(sections: Sections, method: Method, settings: Mapping[str, Any]) -> None:
    """BMC's rewrite prompt, β and δ: those of one task of the paper, which the rewrite prompt names."""
    task = bmc_task_of(settings.get("rewrite.prompt"))
    why = (
        f"For {task.title}. The paper has another β and δ for other tasks: engine init writes all three with "
        f"{other_bmc_tasks(task)}."
    )
    sections["rewrite"] = with_value(sections["rewrite"], "prompt", task.prompt, why)
    name = f"train.{method.loss}"
    table = f"[{name}]\n"
    if method.is_the_papers:
        why = f"The paper's for {task.title}, as δ is: see prompt in [rewrite]."
        table = with_value(table, "beta", task.beta, why)
    sections[name] = with_value(table, "delta", task.delta, task.of_delta)


def set_training(
    sections: Sections, method: Method, model: ModelLook, fit: Fit, settings: Mapping[str, Any]
) -> None:
    """The loss, and what follows from the model's size and the memory here. `settings`: the user's own."""
    train = sections["train"]
    if not method.is_the_papers:
        why = (
            f"The other settings of [train] are those of {method.recipe}; trainer losses shows its own keys."
        )
        train = with_value(train, "loss", method.loss, why)
    if model.path is not None and model.parameters < _TINY:
        why = f"5e-7 is for billions of parameters; this model has {in_millions(model.parameters)}."
        train = with_value(train, "learning_rate", 1e-4, why)
    elif fit.way != memory.WHOLE:
        train = with_value(train, "learning_rate", _OF_ADAPTERS, _WHY_OF_ADAPTERS)
    memory_lines = "\n".join(comment(line) for line in (*fit.why, *_left_open(settings)))
    sections["train"] = f"{train.rstrip()}\n{memory_lines}\n"
    if fit.way != memory.WHOLE:
        add_section(sections, "train.lora", _LORA)
    if fit.way == memory.ADAPTER_ON_FOUR_BITS and "model.quantization" not in settings:
        why = "The weights in 4 bits, in engine and trainer alike: in more they do not fit here."
        sections["model"] = with_value(sections["model"], "quantization", "nf4", why)


def _left_open(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Which keys of [train] the trainer chooses, in a line; none where the user has set them all."""
    keys = ("parallel", "gradient_checkpointing", "micro_batch_tokens")
    left = [key for key in keys if f"train.{key}" not in settings]
    if not left:
        return ()
    return (
        f"Left open: {', '.join(left)}. The trainer takes what fits when it starts, and trainer plan says it "
        "before.",
    )
