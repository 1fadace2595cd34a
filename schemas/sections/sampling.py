"""How a model samples, and the sections [generate] and [rewrite], which do."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from schemas import checks
from schemas.errors import UserError
from schemas.fields import Section, number, path, setting, tables


@dataclass(frozen=True)
class Sampling(Section):
    """How to sample, by vLLM's own names."""

    n: int = number(1, low=1)  # responses a prompt
    temperature: float = number(1.0, low=0)  # 0: greedy
    top_p: float = number(1.0, above=0, high=1)
    top_k: int = number(0, low=0)  # 0: all
    min_p: float = number(0.0, low=0, high=1)
    max_tokens: int = number(1024, low=1)

    def sampling_facts(self) -> dict[str, Any]:
        """How responses are sampled, as a fact of a stage's folder: these fields, whatever a stage adds."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)}

    def check(self) -> None:
        if self.n > 1 and self.temperature == 0:
            raise UserError(
                f"{self.title()} n = {self.n} with temperature = 0: greedy responses are all the same; "
                "set n = 1, or a temperature"
            )


@dataclass(frozen=True)
class Generate(Sampling):
    """Responses by the model itself: n a prompt, all of them kept."""

    n: int = number(4, low=1)


@dataclass(frozen=True)
class Rewrite(Sampling):
    """Bridging (BMC): the rejected response, corrected with the chosen one as reference."""

    temperature: float = number(0.0, low=0)
    # rewrite_instruction, rewrite_question, rewrite_maths, or a path to one of your own.
    prompt: str = path("rewrite_instruction", "prompts", ".txt")
    # Which two responses: a way to choose pairs, as in [pairs].
    choose: str = path("best_vs_worst", "sql", ".sql")
    scorer: str = setting("rating", checks.scorer)  # whose scores it chooses by
    margin: float = number(0.0, low=0)
    # A rewrite further from the draft than this times the reference's own distance is no bridge.
    too_far: float = number(1.0, low=0)
    model: str = path("")  # another model than [model]
    # [rewrite.template_arguments]: as [model.template_arguments], over those where the model is [model]'s.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)

    def check(self) -> None:
        super().check()
        if self.n != 1:
            raise UserError(
                f"[rewrite] n = {self.n}: a draft is rewritten once; "
                "to choose among several, generate and judge"
            )
