"""The section [logprobs]: reference log-probs."""

from dataclasses import dataclass

from schemas.errors import UserError
from schemas.fields import Section, choice, choices, number, path


@dataclass(frozen=True)
class Logprobs(Section):
    """Per-token reference log-probs of every response."""

    # What stands before the response: plain (the prompt), quality (the prompt under the quality prompt).
    contexts: tuple[str, ...] = choices(("plain",), "plain", "quality")
    # A file of pipelines/prompts without .txt, or a path to one of your own.
    quality_prompt: str = path("quality", "prompts", ".txt")
    # In front of the last_user or first_user message, or in the system message.
    quality_place: str = choice("last_user", "last_user", "first_user", "system")
    # Who computes them: hf shares the trainer's arithmetic; vllm is there for models that need several GPUs.
    backend: str = choice("hf", "hf", "vllm")
    # Tokens of prompt and response together; 0: as many as the model has positions.
    max_length: int = number(0, low=0)
    # What to do with more: drop alone, or truncate_prompt_left (to a quarter of max_length at least), or
    # truncate_response, or both, the prompt first. What does not fit even then goes to rejects.
    too_long: tuple[str, ...] = choices(("drop",), "drop", "truncate_prompt_left", "truncate_response")
    # Tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU.
    batch_tokens: int = number(0, low=0)

    def check(self) -> None:
        if "plain" not in self.contexts:
            raise UserError(
                f"[logprobs] contexts = {list(self.contexts)}: plain must be among them, every loss needs it"
            )
        if "drop" in self.too_long and len(self.too_long) > 1:
            raise UserError(
                "logprobs.too_long has drop beside another way: "
                "what cannot be cut to fit is dropped anyway; leave drop out"
            )
