"""The sections that make scores: [check], [judge], [reward] and [prompt_gain]."""

from dataclasses import dataclass
from typing import Any

from schemas import checks
from schemas.errors import UserError
from schemas.fields import Section, choice, choices, number, path, tables
from schemas.sections.other_model import OtherModel


@dataclass(frozen=True)
class Check(Section):
    """Scores by a function: an exact checker, a reward model of your own. Its scorer is `check`."""

    # package.module:name or path/file.py:name; name(messages, response) -> a number, or None where it has
    # no opinion. A parameter called `reference` is given the data's right answer, or None.
    function: str = path("", function=True, check=checks.function)
    # Above 0: the function takes lists, of so many responses at most, and gives a list of as many scores:
    # name(list of messages, list of responses) -> numbers or None. 0: one response a call.
    batch_size: int = number(0, low=0)


@dataclass(frozen=True)
class Judge(OtherModel):
    """Scores by a model, asked by a file of pipelines/prompts (without .txt) or by one of your own."""

    # rating: one mark a response, scorer `rating`; pairwise: every two responses against each other in both
    # orders, scorer `pairwise`.
    kinds: tuple[str, ...] = choices(("rating",), "rating", "pairwise")
    # The file that asks for a mark. It begins the answer ("Rating: "), as chat models do; judge_rating_bare
    # does not.
    rating_prompt: str = path("judge_rating", "prompts", ".txt")
    # The file that asks which of two is better; judge_pairwise_bare begins no answer.
    pairwise_prompt: str = path("judge_pairwise", "prompts", ".txt")
    low: int = number(1, low=0, high=100)  # the lowest mark; every number from low to high is one
    high: int = number(5, low=0, high=100)  # the highest mark
    # A mark is the mean over the marks' probabilities among themselves; the column `mass` keeps what they
    # have together. Below min_mass they say nothing: the score is null, the judge's words are kept.
    min_mass: float = number(0.01, low=0, high=1)
    # Above 0: the judge thinks first, in so many tokens at most. Its thoughts are kept in scores.answer.
    think: int = number(0, low=0)
    # Rules to judge by, for the files' {{ rubric }}: a text file, or one of pipelines/prompts without .txt.
    rubric: str = path("", "prompts", ".txt")
    # [judge.template_arguments]: as [model.template_arguments], over those where the model is [model]'s.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)

    def check(self) -> None:
        super().check()
        if not self.low < self.high:
            raise UserError(
                f"[judge] low = {self.low}, high = {self.high}: expected the first below the second"
            )


@dataclass(frozen=True)
class Reward(Section):
    """Scores by a reward model, a sequence-classification model of transformers: its logit. Its scorer is
    `reward`."""

    # A folder in Hugging Face form, or a name on the hub; safetensors only, and no code of its own.
    model: str = path("")
    revision: str = "main"  # of a name on the hub: a branch, a tag or a commit
    dtype: str = choice("auto", "auto", "float32", "bfloat16", "float16")  # auto: as model.dtype
    # What it reads: dialogue: prompt and response by the chat template; pair: prompt and response as the two
    # texts of its tokenizer, as cross-encoders do.
    input: str = choice("dialogue", "dialogue", "pair")
    # A file of pipelines/prompts without .jinja, or a path, in place of the reward model's own chat template.
    chat_template: str = path("", "prompts", ".jinja")
    # [reward.template_arguments]: variables of the chat template's own.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)
    # Which logit of a model that has several is the score: its name in config.json's id2label, or its number.
    label: str = ""
    # Tokens of prompt and response together; 0: as many as the model has positions. What is longer has no
    # score and goes to rejects.
    max_length: int = number(0, low=0)
    # Tokens of one forward pass, with padding; bounds memory, changes a score by rounding at most. 0: 2048 on
    # a CPU, 16384 on a GPU.
    batch_tokens: int = number(0, low=0)

    def check(self) -> None:
        if self.input == "pair" and (self.chat_template or self.template_arguments):
            raise UserError(
                '[reward] input = "pair" uses no chat template: leave chat_template and template_arguments '
                'out, or set input = "dialogue"'
            )


@dataclass(frozen=True)
class PromptGain(Section):
    """Scores by log-probs: how much the quality prompt raises a response's likelihood."""
