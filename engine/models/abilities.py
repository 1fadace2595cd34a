"""What of a recipe's sampling the model and its backend can do, found out before any work.

Structured outputs are vLLM's: its engine is then given the tokenizer, which it needs for nothing else.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from engine.models.spec import ModelSpec
from schemas.errors import UserError
from schemas.identity import Identity
from schemas.plain_files import MOST_JSON, read_plain
from schemas.sections import Sampling

_MOST_TEMPERATURE = 2.0  # vLLM's bounds; below the least one it would take that in silence
_LEAST_TEMPERATURE = 0.01

AnySampling = TypeVar("AnySampling", bound=Sampling)


def spec_for(sampling: Sampling, spec: ModelSpec) -> ModelSpec:
    """The spec of a model that samples so. Raises UserError where its backend cannot."""
    title = sampling.title().strip("[]")
    if spec.backend == "vllm":
        temperature = sampling.temperature
        if temperature > _MOST_TEMPERATURE or 0 < temperature < _LEAST_TEMPERATURE:
            raise UserError(
                f"[{title}] temperature = {temperature:g}: vLLM takes 0, or {_LEAST_TEMPERATURE:g} to "
                f'{_MOST_TEMPERATURE:g}; set it so, or model.backend = "hf"'
            )
    elif sampling.structured_outputs:
        raise UserError(
            f"[{title}.structured_outputs] is for vLLM alone, and {sampling.title()} runs on transformers "
            'here: set model.backend = "vllm", or leave the table out'
        )
    if sampling.structured_outputs:
        spec = replace(spec, engine_tokenizer=True)
    return spec


def with_schema(sampling: AnySampling) -> AnySampling:
    """The same with the JSON schema of structured_outputs as one text, whatever it was given as.

    The order of a schema's properties is that of the answer's, so it is kept. Raises UserError where a file
    is not there or is no JSON."""
    schema = sampling.structured_outputs.get("json")
    if schema is None:
        return sampling
    if isinstance(schema, str):
        schema = _read_schema(schema, sampling.title().strip("[]"))
    return replace(sampling, structured_outputs={"json": json.dumps(schema)})


def _read_schema(text: str, title: str) -> object:
    """A schema that is given as JSON, or as the path of a file."""
    where = f"[{title}.structured_outputs] json"
    if not text.lstrip().startswith("{"):
        where = f"{where} = {text}"
        try:
            text = read_plain(Path(text).expanduser(), MOST_JSON, or_own_pipe=True).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: the schema's file cannot be read: {error}") from None
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UserError(f"{where}: a schema is a JSON object, not {type(schema).__name__}")
    return schema


def check_ids(sampling: Sampling, rows: int, identity: Identity) -> None:
    """Raise UserError where a key names a token id that a model with so many ids does not have."""
    named = {
        "stop_token_ids": sampling.stop_token_ids,
        "logit_bias": map(int, sampling.logit_bias),
    }
    for key, token_ids in named.items():
        beyond = [token for token in token_ids if token >= rows]
        if beyond:
            raise UserError(
                f"{sampling.title()} {key} has the token {beyond[0]}, but the model in {identity.path} has "
                f"ids up to {rows - 1}"
            )
