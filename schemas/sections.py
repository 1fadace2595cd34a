"""The sections of a recipe and their keys: this page is the reference of all of them. A section is a stage, a key a field with its default."""

import datetime
import math
from dataclasses import dataclass, field

from schemas.errors import UserError, did_you_mean


def _bounds(section: object, low: float, *names: str, above: bool = False, high: float = math.inf) -> None:
    """Raises UserError for a field of a section that is below `low` (or not above it), above `high`, or no number."""
    for name in names:
        value = getattr(section, name)
        if (
            not (low < value if above else low <= value)
            or not value <= high
            or value in (math.inf, -math.inf)
        ):
            most = f" and at most {high:g}" if high < math.inf else ""
            raise UserError(
                f"[{type(section).__name__.lower()}] {name} = {value}: expected a number {'above' if above else 'of at least'} {low:g}{most}"
            )


def _one_of(section: object, name: str, values: tuple[str, ...]) -> None:
    """Raises UserError for a field, or an item of it, that is none of these."""
    found = getattr(section, name)
    if not isinstance(found, str) and (not found or len(set(found)) < len(found)):
        raise UserError(
            f"[{type(section).__name__.lower()}] {name} = {list(found)}: expected at least one, and none twice"
        )
    for value in (found,) if isinstance(found, str) else found:
        if value not in values:
            raise UserError(
                f"[{type(section).__name__.lower()}] {name} = {value}; {did_you_mean(value, values)}"
            )


@dataclass(frozen=True)
class Model:
    """The reference, and the policy at its start."""

    name: str = ""  # a folder in Hugging Face form, or a name on the hub; safetensors only
    revision: str = "main"  # of a hub name
    dtype: str = "float32"  # float32, bfloat16 or float16: of the engine's pass
    device: str = "auto"  # auto (every GPU there is, else the CPU), cpu, cuda, cuda:1 …
    # Who generates, judges and rewrites: vllm, hf (transformers on torch), or auto: vllm where it and a GPU are there, else hf.
    backend: str = "auto"
    # Seconds without a sign of life after which a vLLM engine is taken for dead and started anew. A start may take half an hour.
    timeout: float = 600.0
    vllm: dict = field(
        default_factory=dict
    )  # [model.vllm]: engine arguments by vLLM's names, such as tensor_parallel_size, max_model_len
    template: str = "plain"  # template for a model that has no chat template: a file of pipelines/prompts without .jinja, or a path
    date: str = "2024-07-26"  # the day that a template which prints today's date is told: token ids must not depend on the day of the run
    chat_template: str = ""  # a .jinja file to use in place of the model's own chat template

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"[model] date = {self.date}: expected a day as YYYY-MM-DD") from None
        _bounds(self, 0, "timeout", above=True)
        for name in ("max_model_len", "tensor_parallel_size", "pipeline_parallel_size"):
            if name in self.vllm and (type(self.vllm[name]) is not int or self.vllm[name] < 1):
                raise UserError(
                    f"[model.vllm] {name} = {self.vllm[name]}: expected a whole number of at least 1"
                )
        _one_of(self, "backend", ("auto", "vllm", "hf"))


@dataclass(frozen=True)
class Prompts:
    """Raw files to prompts, with the responses they bring."""

    source: tuple[str, ...] = ()  # files, folders or globs: JSON Lines, JSON arrays, Parquet; .gz, .zst, .bz2
    format: str = "auto"  # auto, a file of pipelines/sql without .sql, or a path to one of your own
    shards: int = 0  # 0: one for every 8 MiB of input, 4096 at most
    max_row_bytes: int = 4 << 20  # a longer row goes to rejects

    def __post_init__(self) -> None:
        _bounds(self, 0, "shards", high=99_999)  # five digits in a file's name
        _bounds(self, 1, "max_row_bytes")


@dataclass(frozen=True)
class Given:
    """The responses that came with the prompts, and what the data says of them."""


@dataclass(frozen=True)
class Sampling:
    """How to sample, by vLLM's own names."""

    n: int = 1  # responses a prompt
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        _bounds(self, 1, "n", "max_tokens")
        _bounds(self, 0, "temperature", "top_k")
        _bounds(self, 0, "top_p", above=True, high=1)
        _bounds(self, 0, "min_p", high=1)
        if self.n > 1 and self.temperature == 0:
            raise UserError(
                f"[{type(self).__name__.lower()}] n = {self.n} with temperature = 0: greedy responses are all the same; set n = 1, or a temperature"
            )


@dataclass(frozen=True)
class Generate(Sampling):
    """Responses by the model itself: n a prompt, all of them kept."""

    n: int = 4


@dataclass(frozen=True)
class Check:
    """Scores by a function: an exact checker, a reward model of your own. Its scorer is `check`."""

    function: str = ""  # package.module:name or path/file.py:name; name(messages, response) -> a number, or None where it has no opinion


@dataclass(frozen=True)
class Judge:
    """Scores by a model, asked by a file of pipelines/prompts (without .txt) or by one of your own."""

    # rating: one mark a response, scorer `rating`; pairwise: every two responses against each other in both orders, scorer `pairwise`
    kinds: tuple[str, ...] = ("rating",)
    rating_prompt: str = "judge_rating"
    pairwise_prompt: str = "judge_pairwise"
    low: int = 1  # the marks, each a single token in the model's vocabulary
    high: int = 5
    min_mass: float = 0.5  # the marks' probability together, below which the model gave none: the score is null, its words are kept
    model: str = ""  # another model than [model]

    def __post_init__(self) -> None:
        _one_of(self, "kinds", ("rating", "pairwise"))
        _bounds(self, 0, "min_mass", high=1)
        _bounds(self, 0, "low", high=9)
        if not self.low < self.high <= 9:
            raise UserError(
                f"[judge] low = {self.low}, high = {self.high}: expected two digits, the first below the second; a mark must be one token"
            )


@dataclass(frozen=True)
class Rewrite(Sampling):
    """Bridging (BMC): the rejected response corrected with the chosen one as reference, as little changed as need be."""

    temperature: float = 0.0
    prompt: str = "rewrite_instruction"  # or rewrite_question, rewrite_maths, or a path to one of your own
    choose: str = "best_vs_worst"  # which two responses: a way to choose pairs, as in [pairs]
    scorer: str = "rating"  # whose scores it chooses by
    margin: float = 0.0
    too_far: float = (
        1.0  # a rewrite further from the draft than this times the reference's own distance is no bridge
    )
    model: str = ""  # another model than [model]

    def __post_init__(self) -> None:
        super().__post_init__()
        _bounds(self, 0, "margin", "too_far")
        if self.n != 1:
            raise UserError(
                f"[rewrite] n = {self.n}: a draft is rewritten once; to choose among several, generate and judge"
            )


@dataclass(frozen=True)
class PromptGain:
    """Scores by log-probs: how much the quality prompt raises a response's likelihood. Its scorer is `prompt_gain`."""


@dataclass(frozen=True)
class Logprobs:
    """Per-token reference log-probs of every response."""

    contexts: tuple[str, ...] = (
        "plain",
    )  # what stands before the response: plain (the prompt), quality (the prompt under the quality prompt)
    quality_prompt: str = "quality"  # a file of pipelines/prompts without .txt, or a path to one of your own
    quality_place: str = (
        "last_user"  # in front of the last_user or first_user message, or in the system message
    )
    backend: str = "hf"  # hf shares the trainer's arithmetic; vllm is there for models that need several GPUs

    max_length: int = 0  # tokens of prompt and response together; 0: as many as the model has positions
    # What to do with more: drop alone, or truncate_prompt_left (to a quarter of max_length at least), or truncate_response, or both, the prompt
    # first. What does not fit even then goes to rejects.
    too_long: tuple[str, ...] = ("drop",)
    batch_tokens: int = (
        0  # tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU
    )

    def __post_init__(self) -> None:
        _bounds(self, 0, "max_length", "batch_tokens")
        _one_of(self, "contexts", ("plain", "quality"))
        _one_of(self, "quality_place", ("last_user", "first_user", "system"))
        _one_of(self, "backend", ("hf", "vllm"))
        if "plain" not in self.contexts:
            raise UserError(
                f"[logprobs] contexts = {list(self.contexts)}: plain must be among them, every loss needs it"
            )


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected."""

    # given, best_vs_worst, best_vs_random, above_margin, rewritten_vs_parent, all_pairs (files of pipelines/sql), or a path to one of your own
    choose: str = "given"
    scorer: str = "rating"  # whose scores they choose by: given, rating, pairwise, prompt_gain or check
    margin: float = 0.0  # above_margin: the least gap between the scores
    scored_by: tuple[
        str, ...
    ] = ()  # scorers that must have rated both responses: a choice without their scores goes to rejects
    baseline: str = ""  # RPO's baseline response beside the two: sample (one of [generate]'s, drawn at random), or a path to a SQL file of your own
    diff: str = "levenshtein"  # how the edit masks are found: levenshtein (BMC's paper) or difflib (its code)
    test_share: float = 0.02  # share of the prompts held out as split = 'test'

    def __post_init__(self) -> None:
        _bounds(self, 0, "test_share", high=1)
        _bounds(self, 0, "margin")
        _one_of(self, "diff", ("levenshtein", "difflib"))


@dataclass(frozen=True)
class Verify:
    """`engine verify`: log-probs computed again in another way."""

    sample: int = 64  # responses
    tolerance: float = 0.0  # largest mean gap, nat a token; 0: 1e-3 in float32, 0.05 otherwise

    def __post_init__(self) -> None:
        _bounds(self, 1, "sample")
        _bounds(self, 0, "tolerance")


@dataclass(frozen=True)
class Rounds:
    """pipelines/run.py: precompute and train this many times over, each round's reference being the policy of the round before."""

    n: int = 1

    def __post_init__(self) -> None:
        _bounds(self, 1, "n")


@dataclass(frozen=True)
class Train:
    """Optimise the policy on the pairs. A loss has its own keys in [train.<loss>]."""

    loss: str = "dpo"
    learning_rate: float = 5e-7
    optimizer: str = "adamw"  # adamw or rmsprop
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)  # of adamw
    schedule: str = "linear"  # linear, cosine or constant, after the warm-up
    warmup_steps: int = 0
    warmup_ratio: float = 0.0  # of all steps, where warmup_steps is 0
    max_grad_norm: float = 1.0  # 0: no clipping
    batch_size: int = 64  # pairs of one optimizer step, over all ranks
    look_ahead: int = 1  # global batches whose pairs are grouped by length. Above 1 (8, say): ranks with few pairs each wait less, a padded model pads less
    micro_batch_tokens: int = (
        0  # tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU
    )
    epochs: int = 1
    max_steps: int = -1  # above 0: this many steps, whatever epochs says
    dtype: str = "float32"  # float32, or bfloat16: autocast over float32 weights
    gradient_checkpointing: bool = False
    eval_every: int = 0  # steps between evaluations on the test split; 0: at the start and at the end only
    save_every: int = 500  # steps between checkpoints; the last step is always saved
    keep: int = 2  # checkpoints kept; 0: all
    tolerance: float = 0.0  # largest mean gap, nat a token, between cache and policy at step 0; 0: 1e-3 in float32, 0.05 otherwise
    tensorboard: bool = False
    options: dict = field(default_factory=dict)  # the tables [train.<loss>], read by the losses

    def __post_init__(self) -> None:
        _bounds(self, 0, "learning_rate", above=True)
        _bounds(self, 1, "batch_size", "look_ahead", "epochs")
        _bounds(
            self,
            0,
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "micro_batch_tokens",
            "eval_every",
            "save_every",
            "keep",
            "tolerance",
        )
        _bounds(self, 0, "warmup_ratio", high=1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(
                f"[train] betas = {list(self.betas)}: expected two numbers of at least 0 and below 1"
            )


SECTIONS: dict[str, type] = {
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
