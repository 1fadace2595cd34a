"""The table [train.lora]: an adapter is trained in place of the model's own weights, by PEFT's names."""

from dataclasses import dataclass

from schemas.fields import Section, choice, number


@dataclass(frozen=True)
class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685): W + alpha/r · B·A, with B = 0 at first."""

    r: int = number(16, low=1)  # rank of the two matrices
    alpha: float = number(32.0, above=0)  # over r, the factor of their product
    dropout: float = number(0.0, low=0, high=1)  # of what goes into the adapter
    # Names of modules, or all-linear: every linear layer but the head.
    target_modules: tuple[str, ...] = ("all-linear",)
    modules_to_save: tuple[str, ...] = ()  # trained whole beside the adapters, such as lm_head
    bias: str = choice("none", "none", "all", "lora_only")  # which biases are trained
    use_dora: bool = False  # DoRA (arXiv 2402.09353)
    use_rslora: bool = False  # rsLoRA (arXiv 2312.03732): alpha/sqrt(r) in place of alpha/r

    @classmethod
    def title(cls) -> str:
        """How the table is written in a recipe."""
        return "[train.lora]"
