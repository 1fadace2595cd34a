"""How a model samples, and the sections [generate] and [rewrite], which do."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas import checks, sampling_checks
from schemas.errors import UserError
from schemas.fields import Section, choice, number, path, setting, tables
from schemas.sections.other_model import OtherModel

# What has always been a fact; any other key is one where it is not its default, so that folders which were
# made before there was such a key keep their names.
_ALWAYS_FACTS = ("n", "temperature", "top_p", "top_k", "min_p", "max_tokens")


@dataclass(frozen=True)
class Sampling(Section):
    """How to sample, by vLLM's own names and in its order: what is masked, logit_bias, the penalties,
    temperature, min_p, top_k, top_p."""

    hints: ClassVar[Mapping[str, str]] = sampling_checks.HINTS

    n: int = number(1, low=1)  # responses a prompt
    temperature: float = number(1.0, low=0)  # divides the logits; 0: greedy
    # Draw among the likeliest tokens that have this share of the probability together. 1: all.
    top_p: float = number(1.0, above=0, high=1)
    top_k: int = number(0, low=0)  # draw among so many of the likeliest tokens; 0: all
    # Draw among tokens that have at least this share of the likeliest one's probability.
    min_p: float = number(0.0, low=0, high=1)
    max_tokens: int = number(1024, low=1)  # after which a response is cut off
    min_tokens: int = number(0, low=0)  # before which no token ends a response and no stop string counts
    # A response ends before the first of these strings; they are no part of it.
    stop: tuple[str, ...] = setting((), sampling_checks.texts)
    # Token ids that end a response beside the model's own end tokens; they are no part of its text.
    stop_token_ids: tuple[int, ...] = setting((), sampling_checks.token_ids)
    # Logits of tokens in the prompt or the response so far: divided by it above 0, multiplied below. 1: none.
    repetition_penalty: float = number(1.0, above=0)
    # Subtracted once from the logit of each token that is in the response so far.
    presence_penalty: float = number(0.0, low=-2, high=2)
    # Subtracted from the logit of a token as often as it is in the response so far.
    frequency_penalty: float = number(0.0, low=-2, high=2)
    # [generate.logit_bias] 42 = -100: added to the logit of a token id; -100 to 100.
    logit_bias: dict[str, Any] = tables(check=sampling_checks.logit_bias)
    # Words whose last token is not drawn where it would complete them.
    bad_words: tuple[str, ...] = setting((), sampling_checks.words)
    # [generate.structured_outputs], on vLLM only, one of: json (a schema: a table, or a file's path), regex,
    # choice (a list of texts), grammar (EBNF).
    structured_outputs: dict[str, Any] = tables(check=sampling_checks.structured_outputs, paths=("json",))

    def sampling_facts(self) -> dict[str, Any]:
        """How responses are sampled, as a fact of a stage's folder: these fields, whatever a stage adds."""
        defaults = Sampling()
        facts: dict[str, Any] = {}
        for field in dataclasses.fields(Sampling):
            value = getattr(self, field.name)
            if field.name in _ALWAYS_FACTS or value != getattr(defaults, field.name):
                facts[field.name] = value
        # The order of these says nothing.
        for name in {"stop_token_ids", "bad_words"} & facts.keys():
            facts[name] = sorted(set(facts[name]))
        if self.logit_bias:
            facts["logit_bias"] = {token: float(bias) for token, bias in self.logit_bias.items()}
        return facts

    def check(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise UserError(
                f"{self.title()} min_tokens = {self.min_tokens} with max_tokens = {self.max_tokens}: "
                "a response cannot be that long; set min_tokens to max_tokens or less"
            )
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
class Rewrite(Sampling, OtherModel):
    """Bridging (BMC): the rejected response, corrected with the chosen one as reference."""

    temperature: float = number(0.0, low=0)
    # rewrite_instruction, rewrite_question, rewrite_maths, or a path to one of your own.
    prompt: str = path("rewrite_instruction", "prompts", ".txt")
    # Which two responses: a way to choose pairs, as in [pairs].
    choose: str = path("best_vs_worst", "sql", ".sql")
    scorer: str = setting("rating", checks.scorer)  # whose scores the two are chosen by
    margin: float = number(0.0, low=0)  # above_margin: the least gap between the scores
    # bradley_terry: how much chance there is in the choice: the odds are exp(gap between the scores / this).
    # 0: the better rated is always chosen.
    label_temperature: float = number(1.0, low=0)
    # bradley_terry: the share of pairs that are turned round after that.
    label_noise: float = number(0.0, low=0, high=1)
    # Whether the two are chosen among responses that were cut off before their end, as pairs.unfinished.
    # drop: no draft is rewritten whose pair [pairs] would leave out.
    unfinished: str = choice("keep", "drop", "keep")
    # A rewrite further from the draft than this times the reference's own distance is no bridge.
    too_far: float = number(1.0, low=0)
    # [rewrite.template_arguments]: as [model.template_arguments], over those where the model is [model]'s.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)

    def check(self) -> None:
        super().check()
        OtherModel.check(self)
        if self.n != 1:
            raise UserError(
                f"[rewrite] n = {self.n}: a draft is rewritten once; "
                "to choose among several, generate and judge"
            )
