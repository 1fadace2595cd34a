"""A model by its content: digests of weights, config, tokenizer and template, without loading any of them.

A name is not an identity: a folder retrained under its old name must not be served from the old cache.
Digests of the (large) weight files are remembered by size and time of change, so that naming a model costs
milliseconds.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.adapter_tensors import checked_tensors
from schemas.adapters import ADAPTER_WEIGHTS, base_of, is_adapter, settings_of
from schemas.chat_template import own_template, read_template
from schemas.checkpoints import check_as_model
from schemas.digest import content_digest, fingerprint, is_remembered
from schemas.errors import UserError
from schemas.extensions import included
from schemas.hub_models import find
from schemas.model_checks import Kind, checked_config, checked_weight_files
from schemas.model_content import read_json
from schemas.model_errors import usable
from schemas.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    PROCESSOR_FILES,
    TOKENIZER_CONFIG,
    model_home,
    place_of,
    tokenizer_files,
    tokenizer_home,
    weight_files,
)
from schemas.rope import steady_positions
from schemas.sections import Model

_log = logging.getLogger("prefmill")
_LARGE = 2_000_000_000  # bytes that take long enough to read for a user to wonder
# What transformers writes of its own accord and what changes no number.
_IDLE_CONFIG = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
# Where the template comes from: the recipe's model.chat_template, the model's folder, or, for a model that
# has none, the recipe's model.template.
TemplateSource = Literal["recipe", "model", "plain"]


@dataclass(frozen=True)
class Identity:
    """A model folder and the digests of what is opened of it (schemas/model_files.py).

    `path` may be an adapter's (schemas/adapters.py): its digests are over its base, too.

    `template_source`: where `template_text` comes from: the recipe's model.chat_template, the model's own
    folder, or, for a model that has none, the recipe's model.template (`plain`). `positions` is the longest
    sequence that the model was made for, 0 where it has no such limit; `steady` is the longest whose numbers
    do not depend on the batch where transformers runs it (schemas/rope.py), 0 where none do."""

    path: Path
    weights: str
    config: str
    tokenizer: str
    template: str
    template_text: str
    template_source: TemplateSource
    positions: int
    steady: int = 0

    def facts(self) -> dict[str, str]:
        """What rows that are made with the model depend on."""
        return {
            "weights": self.weights,
            "config": self.config,
            "tokenizer": self.tokenizer,
            "template": self.template,
        }


def resolve(model: Model) -> Path:
    """The folder of a model: the name itself if it is a folder, else a snapshot from the hub or its cache.

    Raises UserError where there is none."""
    if not model.name:
        raise UserError(
            "the recipe names no model: set name in [model] to a folder in Hugging Face form "
            "or to a name on the hub"
        )
    return find(model.name, model.revision)


def identify(model: Model, kind: Kind | None = None) -> Identity:
    """The digests of a model; `kind`: what it is to be used for, None as a language model.

    Raises UserError if its folder is not a whole safetensors model of that kind, or can be read as more than
    one."""
    path = resolve(model)
    with usable(path):
        return _identity(model, path, kind)


def _identity(model: Model, path: Path, kind: Kind | None) -> Identity:
    weights = weights_digest(path, kind)
    template, source = _template(model, path)
    asks_for_date = "strftime_now" in template or "date_string" in template
    return Identity(
        path=path,
        weights=weights,
        config=config_digest(path, kind),
        tokenizer=tokenizer_digest(path),
        # A template that asks for the date is told the recipe's: only then do the ids depend on it.
        template=fingerprint([template, model.date if asks_for_date else None]),
        template_text=template,
        template_source=source,
        positions=_positions(path),
        steady=steady_positions(_text_config(path)),
    )


def check_unchanged(model: Model, planned: Mapping[str, Any] | None, kind: Kind | None = None) -> None:
    """Raise UserError where a model's digests are not those that the folders to be filled are named by.

    Call it after loading, so that what was loaded is what the digests name. `planned`: None checks
    nothing."""
    if not planned:
        return
    identity = identify(model) if kind is None else identify(model, kind)
    now = identity.facts()
    changed = [name for name in now if now[name] != planned[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of the model in {identity.path} changed while the run was going; "
            "run the same command again"
        )


def weights_digest(path: Path, kind: Kind | None = None) -> str:
    """Digest over the names and contents of a folder's weight files; of an adapter also of its base's.

    Raises UserError if it has none, if they are not those of a model that can be used here, or if it is a
    checkpoint of training whose files are not as they were written."""
    if is_adapter(path) and kind is None:
        base = base_of(path)
        of_base = weights_digest(base)
        check_as_model(path)
        checked_tensors(path, base)
        return fingerprint({"base": of_base, "adapter": content_digest(path / ADAPTER_WEIGHTS)})
    weight_files(path)  # says first that a folder is an adapter, or holds no weights at all
    check_as_model(path)
    files = checked_weight_files(path, checked_config(path, kind), kind)
    unread_bytes = 0
    for file in files:
        if not is_remembered(file):
            unread_bytes += file.stat().st_size
    if unread_bytes > _LARGE:
        _log.info(
            "reading %.0f GB of weights in %s, to know them by their content: once", unread_bytes / 1e9, path
        )
    return fingerprint([[file.name, content_digest(file)] for file in files])


def config_digest(path: Path, kind: Kind | None = None) -> str:
    """Digest of config.json without what changes no number; of an adapter also of its settings.

    Raises UserError if there is none."""
    if is_adapter(path) and kind is None:
        return fingerprint({"base": config_digest(base_of(path)), "adapter": settings_of(path)})
    config = _without(checked_config(path, kind), _IDLE_CONFIG)
    processors: dict[str, str] = {}
    for name in PROCESSOR_FILES:
        if (path / name).is_file():
            processors[name] = content_digest(path / name)
    # A model of text alone has none, and keeps the digest that it had before they were looked at.
    return fingerprint([config, processors] if processors else config)


def _without(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def tokenizer_digest(path: Path) -> str:
    """Digest of the files and settings that turn text into token ids, and of where a response ends."""
    digests = {name: content_digest(place_of(path, name)) for name in tokenizer_files(path)}
    settings = _without(read_json(place_of(path, TOKENIZER_CONFIG)), ("chat_template", "name_or_path"))
    if settings.get("fix_mistral_regex"):
        # transformers then splits words as Mistral does if an older version of it has written config.json.
        settings["config.json transformers_version"] = read_json(place_of(path, CONFIG)).get(
            "transformers_version"
        )
    # Where a response ends is part of how it is tokenised.
    ends = read_json(place_of(path, GENERATION_CONFIG)).get("eos_token_id")
    return fingerprint([digests, settings, sorted(ends) if isinstance(ends, list) else [ends]])


def _template(model: Model, path: Path) -> tuple[str, TemplateSource]:
    """The chat template: the recipe's, else the model's own, else the one for models that have none."""
    if model.chat_template:
        return read_template(included("prompts", model.chat_template, ".jinja")), "recipe"
    # An adapter with a tokenizer and no template of its own is asked by that of its base.
    for home in dict.fromkeys((tokenizer_home(path), model_home(path))):
        own = own_template(home)
        if own is not None:
            return own, "model"
    return read_template(included("prompts", model.template, ".jinja")), "plain"


def _positions(path: Path) -> int:
    """The longest sequence by config.json; 0 where it says none."""
    file = place_of(path, CONFIG)
    limits = _text_config(path)
    limit = limits.get("max_position_embeddings") or limits.get("n_positions") or 0
    if not isinstance(limit, int | float) or limit != int(limit):
        raise UserError(
            f"{file} says max_position_embeddings = {limit!r}, which is no whole number: correct it"
        )
    return int(limit)


def _text_config(path: Path) -> dict[str, Any]:
    """What config.json says of the part that works on text."""
    config = read_json(place_of(path, CONFIG))
    text = config.get("text_config")
    return text if isinstance(text, dict) and text else config
