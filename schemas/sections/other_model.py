"""The keys of a section that may open another model than [model]: how that one runs."""

from dataclasses import dataclass
from typing import Any

from schemas import checks
from schemas.errors import UserError
from schemas.fields import choice, path, tables
from schemas.sections.endpoint import Served

_HOW_IT_RUNS = ("dtype", "quantization", "vllm")


@dataclass(frozen=True)
class OtherModel(Served):
    """A section that asks [model], another model of this machine, or a server's."""

    model: str = path("")  # another model than [model]; with base_url, its name there
    # Of that model; of [model] itself these three stand there. auto: as in [model].
    dtype: str = choice("auto", "auto", "float32", "bfloat16", "float16")
    quantization: str = choice("auto", "auto", "none", "nf4")  # of that model
    # [judge.vllm], [rewrite.vllm]: that model's engine arguments, in place of all in [model.vllm]. An
    # empty table is as none: for none of [model.vllm]'s, name one argument at vLLM's default.
    vllm: dict[str, Any] = tables(check=checks.engine_arguments)

    def check(self) -> None:
        super().check()
        if self.model and not self.base_url:
            return
        whose = "asks a server (base_url), which has settings of its own" if self.base_url else ""
        for name in _HOW_IT_RUNS:
            if getattr(self, name) in ("auto", {}):
                continue
            section = self.title().strip("[]")
            what = f"[{section}.vllm] is set" if name == "vllm" else f"{self.title()} {name} is set"
            remedy = "leave it out" if whose else f"name another in {section}.model, or set it in [model]"
            raise UserError(f"{what}, and {self.title()} {whose or 'asks the model of [model]'}: {remedy}")
