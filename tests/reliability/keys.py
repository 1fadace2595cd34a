"""Every key of a recipe: a value that must make another folder, or why it need not.

`Other`: a value, and what else must be set for the key to count. `Idle`: a value, and why it changes no row.
`Refused`: a value that is no value of the key here.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Other:
    """Another value, in TOML; `given`: settings on both sides, without which the key says nothing."""

    value: str
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Idle:
    """Another value that keeps the folders, and the reason."""

    value: str
    why: str
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A value that is refused."""

    value: str


Entry = Other | Idle | Refused

VLLM = ('model.backend="vllm"',)
SERVER = ('base_url="http://127.0.0.1:9/v1"', 'model="there"')


def _server(section: str) -> tuple[str, ...]:
    return tuple(f"{section}.{setting}" for setting in SERVER)


_PATIENCE = "how a server is asked, not what it is asked"
_MEMORY = "bounds memory; a number changes by rounding at most"
_MIXED = ("train.accept_other_dtype=true",)  # with the trials' cache, which is float32
_RANKS = "how ranks share the work; a number changes by rounding at most"
_NO_ROWS = "of a command that writes no rows"
_SHOWN = "what is kept or shown of a training run, not what is learnt"


def _other_model(section: str) -> dict[str, Entry]:
    """How another model than [model] runs: keys that say something only with it."""
    other = f'{section}.model="{{other}}"'
    return {
        "dtype": Other('"bfloat16"', (other,)),
        "quantization": Other('"nf4"', (other,)),
        "vllm": Other("{ max_model_len = 64 }", (other, *VLLM)),
    }


_SAMPLING: dict[str, Entry] = {
    "temperature": Other("0.5"),
    "top_p": Other("0.9"),
    "top_k": Other("7"),
    "min_p": Other("0.1"),
    "max_tokens": Other("5"),
    "min_tokens": Other("2"),
    "stop": Other('["x"]'),
    "stop_token_ids": Other("[7]"),
    "repetition_penalty": Other("1.2"),
    "presence_penalty": Other("0.5"),
    "frequency_penalty": Other("0.5"),
    "logit_bias": Other("{ 7 = -1 }"),
    "bad_words": Other('["no"]'),
    "structured_outputs": Other('{ regex = "a+" }', VLLM),
}


def _served(section: str) -> dict[str, Entry]:
    server = _server(section)
    return {
        "base_url": Other('"http://127.0.0.1:9/v2"', server),
        "api_key_env": Idle('"OTHER_KEY"', "the key says nothing of the answers", server),
        "concurrency": Idle("3", _PATIENCE, server),
        "retries": Idle("3", _PATIENCE, server),
        "timeout": Idle("3.0", _PATIENCE, server),
    }


KEYS: dict[str, dict[str, Entry]] = {
    "model": {
        "name": Other('"{other}"'),
        "revision": Idle('"branch"', "of a name on the hub; what counts is the content that it names"),
        "dtype": Other('"bfloat16"'),
        "quantization": Other('"nf4"'),
        "device": Idle('"cpu"', "where numbers are computed changes them by rounding at most"),
        "backend": Other('"vllm"'),
        "timeout": Idle("3.0", "when an engine is taken for dead"),
        "vllm": Other("{ max_model_len = 64 }", VLLM),
        "template": Other('"{folder}/own.jinja"', ('model.name="{bare}"',)),
        "date": Other('"2031-01-01"', ('model.chat_template="{folder}/dated.jinja"',)),
        "chat_template": Other('"{folder}/own.jinja"'),
        "template_arguments": Other("{ thinking = true }"),
        "response_markers": Other('"token"'),
    },
    "prompts": {
        "source": Other('["{folder}/other.jsonl"]'),
        "format": Other('"{folder}/own.sql"'),
        "shards": Other("3"),
        "max_row_bytes": Other("100000"),
        "ignore": Other('["note"]'),
        "test_source": Other('["{folder}/other.jsonl"]'),
        "test_by_name": Other("false", ('prompts.source=["{folder}/splits"]',)),
        "split_column": Other('"part"'),
        "limit": Other("5"),
        "sample": Other("5"),
        "columns": Other('{ reference = "note" }'),
        "roles": Other('{ customer = "user" }'),
        "turns": Other(
            '{ role = "who", content = "text" }',
            ('prompts.source=["{folder}/turns.jsonl"]', 'prompts.turns={ content = "text" }'),
        ),
        "metadata": Other('["note"]'),
    },
    "given": {},
    "generate": {"n": Other("3"), **_SAMPLING},
    "check": {"function": Other('"{folder}/own.py:other"'), "batch_size": Other("4")},
    "judge": {
        **_served("judge"),
        **_other_model("judge"),
        "kinds": Other('["rating", "pairwise"]'),
        "rating_prompt": Other('"judge_rating_bare"'),
        "pairwise_prompt": Other(
            '"judge_pairwise_bare"',
            ('judge.kinds=["pairwise"]', 'rewrite.scorer="check"', 'pairs.scorer="check"'),
        ),
        "low": Other("2"),
        "high": Other("7"),
        "min_mass": Other("0.3"),
        "think": Other("9"),
        "rubric": Other('"{folder}/rubric.txt"', ('judge.rating_prompt="{folder}/rated.txt"',)),
        "model": Other('"{other}"'),
        "template_arguments": Other("{ thinking = true }"),
    },
    "reward": {
        "model": Other('"{other_reward}"'),
        "revision": Idle('"branch"', "of a name on the hub; what counts is the content that it names"),
        "dtype": Other('"bfloat16"'),
        "input": Other('"pair"'),
        "chat_template": Other('"{folder}/own.jinja"'),
        "template_arguments": Other("{ thinking = true }"),
        "label": Other('"LABEL_1"', ('reward.model="{labelled}"', 'reward.label="LABEL_0"')),
        "max_length": Other("30"),
        "batch_tokens": Idle("64", _MEMORY),
    },
    "rewrite": {
        "n": Refused("2"),
        **_SAMPLING,
        **_served("rewrite"),
        **_other_model("rewrite"),
        "prompt": Other('"rewrite_question"'),
        "choose": Other('"best_vs_random"'),
        "scorer": Other('"check"'),
        "margin": Other("0.5", ('rewrite.choose="above_margin"',)),
        "label_temperature": Other("0.5", ('rewrite.choose="bradley_terry"',)),
        "label_noise": Other("0.5", ('rewrite.choose="bradley_terry"',)),
        "unfinished": Other('"drop"'),
        "too_far": Other("2.0"),
        "model": Other('"{other}"'),
        "template_arguments": Other("{ thinking = true }"),
    },
    "logprobs": {
        "contexts": Other('["plain"]', ("without prompt_gain",)),
        "quality_prompt": Other('"{folder}/quality.txt"'),
        "quality_place": Other('"system"'),
        "backend": Other('"vllm"'),
        "max_length": Other("40"),
        "too_long": Other('["truncate_response"]'),
        "batch_tokens": Idle("64", _MEMORY),
    },
    "prompt_gain": {},
    "pairs": {
        "choose": Other('"best_vs_random"'),
        "scorer": Other('"check"', ('pairs.choose="best_vs_worst"',)),
        "margin": Other("0.5", ('pairs.choose="above_margin"',)),
        "label_temperature": Other("0.5", ('pairs.choose="bradley_terry"',)),
        "label_noise": Other("0.5", ('pairs.choose="bradley_terry"',)),
        "scored_by": Other('["check"]'),
        "baseline": Other('"sample"'),
        "unfinished": Other('"keep"'),
        "diff": Other('"difflib"'),
        "test_share": Other("0.3"),
    },
    "verify": {"sample": Idle("9", _NO_ROWS), "tolerance": Idle("0.5", _NO_ROWS)},
    "rounds": {"n": Idle("2", "each round has a folder of its own, and its model is the fact that differs")},
    "train": {
        "loss": Other('"ipo"'),
        "learning_rate": Other("1e-3"),
        "optimizer": Other('"rmsprop"'),
        "weight_decay": Other("0.1"),
        "betas": Other("[0.8, 0.99]"),
        "schedule": Other('"cosine"'),
        "warmup_steps": Other("3"),
        "warmup_ratio": Other("0.2"),
        "max_grad_norm": Other("0.5"),
        "batch_size": Other("3"),
        "look_ahead": Other("4"),
        "micro_batch_tokens": Idle("64", _MEMORY),
        "epochs": Other("2"),
        "max_steps": Other("2"),
        "dtype": Other('"bfloat16"', _MIXED),
        "accept_other_dtype": Idle("true", "what is refused at the start, not what is learnt"),
        "weights": Other('"bfloat16"', (*_MIXED, 'train.dtype="bfloat16"')),
        "save_dtype": Other('"bfloat16"'),
        "parallel": Idle('"fsdp"', _RANKS),
        "shard_size": Idle("1", _RANKS),
        "reshard_after_forward": Idle("false", _RANKS),
        "reduce_dtype": Other('"bfloat16"'),
        "gradient_checkpointing": Idle('"true"', _MEMORY),
        "compile": Idle('"true"', "fuses the same operations; a number changes by rounding at most"),
        "deterministic": Idle(
            "true", "which of several algorithms runs; a number changes by rounding at most"
        ),
        "eval_every": Idle("3", _SHOWN),
        "save_every": Idle("3", _SHOWN),
        "keep": Idle("1", _SHOWN),
        "tolerance": Idle("0.5", "what is refused at the start, not what is learnt"),
        "report_to": Idle('["tensorboard"]', _SHOWN),
        "tensorboard": Idle("true", _SHOWN),
        "eval_samples": Idle("2", _SHOWN),
        "eval_sample_tokens": Idle("5", _SHOWN),
        "metric_for_best_model": Idle('"eval_loss"', _SHOWN),
        "greater_is_better": Idle('"true"', _SHOWN),
        "save_on_signal": Idle("false", _SHOWN),
        "timeout": Idle("90", "how long a rank may be silent"),
        "options": Other("{ beta = 0.3 }"),
    },
}


def setting_of(section: str, key: str, value: str, places: dict[str, Any]) -> str:
    """A `--set` argument; the table of a loss's options is called by the loss."""
    name = "dpo" if (section, key) == ("train", "options") else key
    return f"{section}.{name}={filled(value, places)}"


def filled(text: str, places: dict[str, Any]) -> str:
    """The text with the places' paths in their braces; other braces are TOML's."""
    for name, path in places.items():
        text = text.replace("{" + name + "}", str(path))
    return text
