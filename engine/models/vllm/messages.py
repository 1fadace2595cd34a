"""What goes through the pipe between a worker and its engine's process.

    to the engine     first its settings, then lists of SLICE requests at most: what the engine has no room
                      for yet waits on the worker's side, as objects
    from the engine   Ready once, then Done about every second at least, or Refused

A request has a key, and its answer has the same one. Log-probs travel as the bytes of a float32 array.
"""

from dataclasses import dataclass

from schemas.sections import Sampling

MAX_NEXT_TOKENS = 64  # of one NextToken: the engine's max_logprobs
SLICE = 32  # requests of one message


@dataclass(frozen=True)
class Generate:
    """Ask for one sample. `seed`: None where sampling is greedy."""

    key: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int  # of sampling, or fewer where the prompt leaves less room
    stop_ids: list[int]
    seed: int | None
    bad_words: list[list[int]]  # those of sampling, as token ids
    tokenizer: str  # the folder of the tokenizer that stop strings are looked for with


@dataclass(frozen=True)
class Score:
    """Ask for the log-prob of each token of a response under its prompt."""

    key: int
    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class NextToken:
    """Ask for the log-prob of each of some tokens as the one that follows the prompt."""

    key: int
    prompt: list[int]
    tokens: list[int]


Request = Generate | Score | NextToken


@dataclass(frozen=True)
class Answer:
    """The answer to a request. `ids`, `finish_reason` and `said` are a sample's."""

    key: int
    logps: bytes
    ids: list[int]
    finish_reason: str
    said: str | None = None


@dataclass(frozen=True)
class Ready:
    """The engine is loaded and takes requests. `longest`: tokens of a sequence that its memory holds."""

    longest: int


@dataclass(frozen=True)
class Done:
    """Answers that are finished; without any it is a sign of life.

    `busy`: seconds since the engine was loaded in which it had a request."""

    answers: list[Answer]
    busy: float = 0.0


@dataclass(frozen=True)
class Refused:
    """vLLM does not accept a request, which is named by its key."""

    key: int
    reason: str


Message = Ready | Done | Refused
