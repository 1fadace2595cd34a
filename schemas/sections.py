"""The sections of a recipe and their keys: the reference of all of them but [train] (schemas/training.py).

A section is a stage, a key is a field with its default. What values a key may have stands at the field
(schemas/fields.py) and is checked when the recipe is read.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from schemas import checks
from schemas.errors import UserError
from schemas.fields import Section, choice, choices, number, path, setting, tables
from schemas.training import Train as Train


@dataclass(frozen=True)
class Model(Section):
    """The reference, and the policy at its start."""

    # A folder in Hugging Face form, or a name on the hub; safetensors only.
    name: str = path("")
    revision: str = "main"  # of a hub name
    # The engine's forward pass runs in it.
    dtype: str = choice("float32", "float32", "bfloat16", "float16")
    # auto (every GPU there is, else the CPU), cpu, cuda, cuda:1 …
    device: str = setting("auto", checks.device)
    # Who generates, judges and rewrites: vllm, hf (transformers on torch), or auto: vllm where it and a GPU
    # are there, else hf.
    backend: str = choice("auto", "auto", "vllm", "hf")
    # Seconds without a sign of life after which a vLLM engine is taken for dead and started again. A start
    # may take half an hour.
    timeout: float = number(600.0, above=0)
    # [model.vllm]: engine arguments by vLLM's names, such as tensor_parallel_size, max_model_len.
    vllm: dict[str, Any] = tables(check=checks.engine_arguments)
    # Template for a model that has no chat template: a file of pipelines/prompts without .jinja, or a path.
    template: str = path("plain", "prompts", ".jinja")
    # The day that a template which prints today's date is told: token ids must not depend on the day of the
    # run.
    date: str = setting("2024-07-26", checks.day)
    # A .jinja file to use in place of the model's own chat template.
    chat_template: str = path("", "prompts", ".jinja")
    # [model.template_arguments]: variables of the chat template's own, such as enable_thinking = false.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)
    # What a special token is that stands in a response's text (an <|im_end|> that somebody typed): text, or
    # token.
    response_markers: str = choice("text", "text", "token")


@dataclass(frozen=True)
class Prompts(Section):
    """Raw files to prompts, with the responses they bring."""

    # Files, folders or globs: JSON Lines, JSON arrays, Parquet; .gz, .zst, .bz2.
    source: tuple[str, ...] = path(())
    # auto, a file of pipelines/sql without .sql, or a path to one of your own.
    format: str = path("auto", "sql", ".sql")
    # 0: one for every 8 MiB of input, 4096 at most. A file's name has five digits for its shard.
    shards: int = number(0, low=0, high=99_999)
    # A longer row goes to rejects.
    max_row_bytes: int = number(4 << 20, low=1)
    # Columns that are taken for not there, or keys of their objects: ["tools", "chosen.reasoning"]. A column
    # that the format does not read and that may change what is learned is refused until it is named here.
    ignore: tuple[str, ...] = ()
    # Files, folders or globs like source, whose prompts are held out as split = 'test'; the others are train.
    test_source: tuple[str, ...] = path(())
    # A file of source whose name says test or validation, beside others that do not, is held out as well.
    test_by_name: bool = True
    # The column that says which split a row is of: train, test, validation, dev, eval; "": none does.
    split_column: str = "split"
    # Take the first prompts only, this many of source and of the held-out files each. 0: all.
    limit: int = number(0, low=0)
    # Take this many prompts of source and of the held-out files each, drawn by their content. 0: all.
    sample: int = number(0, low=0)

    def check(self) -> None:
        if self.limit and self.sample:
            raise UserError(
                f"{self.title()} limit = {self.limit} and sample = {self.sample}: "
                "set limit for the first prompts, or sample for some drawn from all"
            )


@dataclass(frozen=True)
class Given(Section):
    """The responses that came with the prompts, and what the data says of them."""


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
class Check(Section):
    """Scores by a function: an exact checker, a reward model of your own. Its scorer is `check`."""

    # package.module:name or path/file.py:name; name(messages, response) -> a number, or None where it has
    # no opinion.
    function: str = path("", function=True, check=checks.function)


@dataclass(frozen=True)
class Judge(Section):
    """Scores by a model, asked by a file of pipelines/prompts (without .txt) or by one of your own."""

    # rating: one mark a response, scorer `rating`; pairwise: every two responses against each other in both
    # orders, scorer `pairwise`.
    kinds: tuple[str, ...] = choices(("rating",), "rating", "pairwise")
    # They begin the answer ("Rating: "), as chat models do; judge_rating_bare and judge_pairwise_bare do not.
    rating_prompt: str = path("judge_rating", "prompts", ".txt")
    pairwise_prompt: str = path("judge_pairwise", "prompts", ".txt")
    # The marks: every number from low to high.
    low: int = number(1, low=0, high=100)
    high: int = number(5, low=0, high=100)
    # A mark is the mean over the marks' probabilities among themselves; the column `mass` keeps what they
    # have together. Below min_mass they say nothing: the score is null, the judge's words are kept.
    min_mass: float = number(0.01, low=0, high=1)
    # Above 0: the judge thinks first, in so many tokens at most. Its thoughts are kept in scores.answer.
    think: int = number(0, low=0)
    # Rules to judge by, for the files' {{ rubric }}: a text file, or one of pipelines/prompts without .txt.
    rubric: str = path("", "prompts", ".txt")
    model: str = path("")  # another model than [model]

    def check(self) -> None:
        if not self.low < self.high:
            raise UserError(
                f"[judge] low = {self.low}, high = {self.high}: expected the first below the second"
            )


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

    def check(self) -> None:
        super().check()
        if self.n != 1:
            raise UserError(
                f"[rewrite] n = {self.n}: a draft is rewritten once; "
                "to choose among several, generate and judge"
            )


@dataclass(frozen=True)
class PromptGain(Section):
    """Scores by log-probs: how much the quality prompt raises a response's likelihood."""


@dataclass(frozen=True)
class Logprobs(Section):
    """Per-token reference log-probs of every response."""

    # What stands before the response: plain (the prompt), quality (the prompt under the quality prompt).
    contexts: tuple[str, ...] = choices(("plain",), "plain", "quality")
    # A file of pipelines/prompts without .txt, or a path to one of your own.
    quality_prompt: str = path("quality", "prompts", ".txt")
    # In front of the last_user or first_user message, or in the system message.
    quality_place: str = choice("last_user", "last_user", "first_user", "system")
    # hf shares the trainer's arithmetic; vllm is there for models that need several GPUs.
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


@dataclass(frozen=True)
class Pairs(Section):
    """Chosen and rejected."""

    # given, best_vs_worst, best_vs_random, above_margin, rewritten_vs_parent, all_pairs (files of
    # pipelines/sql), or a path to one of your own.
    choose: str = path("given", "sql", ".sql")
    # Whose scores they choose by: given, rating, pairwise, prompt_gain or check.
    scorer: str = setting("rating", checks.scorer)
    margin: float = number(0.0, low=0)  # above_margin: the least gap between the scores
    # Scorers that must have rated both responses: a choice without their scores goes to rejects.
    scored_by: tuple[str, ...] = setting((), checks.scorers)
    # RPO's baseline response beside the two: sample (one of [generate]'s, drawn at random), or a path to a
    # SQL file of your own.
    baseline: str = path("", "sql", ".sql")
    # What becomes of a pair with a response that was cut off before its end: keep it; rejected_only: keep it
    # where the chosen one is whole; drop. What is left out goes to rejects.
    unfinished: str = choice("keep", "keep", "rejected_only", "drop")
    # How the edit masks are found: levenshtein (BMC's paper) or difflib (its code).
    diff: str = choice("levenshtein", "levenshtein", "difflib")
    # Share of the prompts held out as split = 'test'.
    test_share: float = number(0.02, low=0, high=1)


@dataclass(frozen=True)
class Verify(Section):
    """`engine verify`: log-probs computed again in another way."""

    sample: int = number(64, low=1)  # responses
    # Largest mean gap, nat a token; 0: 1e-3 in float32, 0.05 otherwise.
    tolerance: float = number(0.0, low=0)


@dataclass(frozen=True)
class Rounds(Section):
    """Precompute and train n times (pipelines/run.py); each round's reference is the last round's policy."""

    n: int = number(1, low=1)


SECTIONS: dict[str, type[Section]] = {
    "model": Model,
    "prompts": Prompts,
    "given": Given,
    "generate": Generate,
    "check": Check,
    "judge": Judge,
    "rewrite": Rewrite,
    "logprobs": Logprobs,
    "prompt_gain": PromptGain,
    "pairs": Pairs,
    "verify": Verify,
    "train": Train,
    "rounds": Rounds,
}
