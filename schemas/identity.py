"""A model by its content: digests of weights, config, tokenizer and template, without loading any of them.

A name is not an identity: a folder retrained under its old name must not be served from the old cache.
Digests of the (large) weight files are remembered by size and time of change, so that naming a model costs
milliseconds.
"""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.digest import content_digest, fingerprint, is_remembered
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Model

_log = logging.getLogger("prefmill")
_LARGE = 2_000_000_000  # bytes that take long enough to read for a user to wonder
# What transformers writes of its own accord and what changes no number.
_IDLE_CONFIG = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True)
class Identity:
    """A model folder and the digests of what is in it.

    `positions` is the longest sequence that the model was made for, 0 where it has no such limit."""

    path: Path
    weights: str
    config: str
    tokenizer: str
    template: str
    template_text: str
    positions: int

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
    path = Path(model.name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.name.startswith((".", "~")) or model.name.count("/") > 1:
        raise UserError(f"no model folder at {model.name}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.name, revision=model.revision, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model '{model.name}' is no folder here and the hub does not give it: {reason}"
        ) from None


def identify(model: Model) -> Identity:
    """The digests of a model. Raises UserError if its folder is not a whole safetensors model."""
    path = resolve(model)
    template = _template_text(model, path)
    asks_for_date = "strftime_now" in template or "date_string" in template
    return Identity(
        path=path,
        weights=weights_digest(path),
        config=config_digest(path),
        tokenizer=_tokenizer_digest(path),
        # A template that asks for the date is told the recipe's: only then do the ids depend on it.
        template=fingerprint([template, model.date if asks_for_date else None]),
        template_text=template,
        positions=_positions(path),
    )


def check_unchanged(model: Model, planned: Mapping[str, Any] | None) -> None:
    """Raise UserError where a model's digests are not those that the folders to be filled are named by.

    Call it after loading, so that what was loaded is what the digests name. `planned`: None checks
    nothing."""
    if not planned:
        return
    identity = identify(model)
    now = identity.facts()
    changed = [name for name in now if now[name] != planned[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of the model in {identity.path} changed while the run was going; "
            "run the same command again"
        )


def weights_digest(path: Path) -> str:
    """Digest over the names and contents of a folder's weight files. Raises UserError if it has none."""
    files = _weight_files(path)
    if not files:
        other = _other_weights(path)
        remedy = f" (only {other}, which can hold code: convert it)" if other else ""
        raise UserError(f"{path} has no model.safetensors{remedy}")
    unread_bytes = 0
    for file in files:
        if not is_remembered(file):
            unread_bytes += file.stat().st_size
    if unread_bytes > _LARGE:
        _log.info(
            "reading %.0f GB of weights in %s, to know them by their content: once", unread_bytes / 1e9, path
        )
    return fingerprint([[file.name, content_digest(file)] for file in files])


def config_digest(path: Path) -> str:
    """Digest of config.json without what changes no number. Raises UserError if there is none."""
    if not (path / "config.json").exists():
        raise UserError(f"{path} has no config.json: it is not a model folder in Hugging Face form")
    return fingerprint(_without(_json(path / "config.json"), _IDLE_CONFIG))


def _without(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _json(path: Path) -> dict[str, Any]:
    """A JSON file of the model's folder; empty where there is none."""
    if not path.exists():
        return {}
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return value


def _weight_files(path: Path) -> list[Path]:
    """The files that hold a model's weights: those that its index names, or the one.

    What else is beside them (an optimizer) is not the model."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        single = path / "model.safetensors"
        return [single] if single.exists() else []
    names = sorted(set(_json(index).get("weight_map", {}).values()))
    for name in names:
        if not (path / name).exists():
            raise UserError(f"{path} is not whole: its index names {name}, which is not there")
    return [path / name for name in names]


def _other_weights(path: Path) -> str | None:
    """The name of a file with weights in a form that is not read here."""
    for pattern in ("*.bin", "*.pt", "*.pth"):
        for file in path.glob(pattern):
            return file.name
    return None


def _tokenizer_digest(path: Path) -> str:
    digests: dict[str, str] = {}
    for name in _TOKENIZER_FILES:
        if (path / name).exists():
            digests[name] = content_digest(path / name)
    if not digests:
        raise UserError(f"{path} has no tokenizer.json (nor tokenizer.model or vocab.json)")
    settings = _without(_json(path / "tokenizer_config.json"), ("chat_template", "name_or_path"))
    # Where a response ends is part of how it is tokenised.
    ends = _json(path / "generation_config.json").get("eos_token_id")
    return fingerprint([digests, settings, sorted(ends) if isinstance(ends, list) else [ends]])


def _template_text(model: Model, path: Path) -> str:
    """The chat template: the recipe's, else the model's own, else the one for models that have none."""
    if model.chat_template:
        return included("prompts", model.chat_template, ".jinja").read_text()
    if (path / "chat_template.jinja").exists():
        return (path / "chat_template.jinja").read_text()
    own = _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(own, list):  # several named ones
        own = next((item["template"] for item in own if item.get("name") == "default"), None)
    if own:
        return str(own)
    return included("prompts", model.template, ".jinja").read_text()


def _positions(path: Path) -> int:
    config = _json(path / "config.json")
    limits = config.get("text_config") or config
    return int(limits.get("max_position_embeddings") or limits.get("n_positions") or 0)
