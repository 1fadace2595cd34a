"""A model by its content: digests of weights, config, tokenizer and template, without loading any of them.

A name is not an identity: a folder retrained under its old name must not be served from the old cache. Digests of the (large) weight files
are remembered by size and time of change, so that naming a model costs milliseconds.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from schemas.commit import content_digest, fingerprint, is_remembered
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
    """A model folder and the digests of what is in it; `positions` is the longest sequence it was made for, 0 where it has no such limit."""

    path: Path
    weights: str
    config: str
    tokenizer: str
    template: str
    template_text: str
    template_from: str
    positions: int

    def facts(self) -> dict[str, str]:
        return {
            "weights": self.weights,
            "config": self.config,
            "tokenizer": self.tokenizer,
            "template": self.template,
        }


def resolve(model: Model) -> Path:
    """The folder of a model: the name itself where it is a folder, else the hub's (or, offline, its cache's) snapshot."""
    if not model.name:
        raise UserError(
            "the recipe names no model: set name in [model] to a folder in Hugging Face form or to a name on the hub"
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


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _weight_files(path: Path) -> list[Path]:
    """The files that hold a model's weights: those of its index, or the one; what else lies beside them (an optimizer) is not the model."""
    index = path / "model.safetensors.index.json"
    names = set(_json(index).get("weight_map", {}).values()) if index.exists() else {"model.safetensors"}
    if absent := [name for name in names if not (path / name).exists()]:
        if index.exists():
            raise UserError(f"{path} is not whole: its index names {absent[0]}, which is not there")
        return []
    return [path / name for name in sorted(names)]


def weights_digest(path: Path) -> str:
    """Digest over the names and contents of a folder's weight files."""
    files = _weight_files(path)
    if not files:
        other = next(
            (file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)), None
        )
        raise UserError(
            f"{path} has no model.safetensors"
            + (f" (only {other}, which can hold code: convert it)" if other else "")
        )
    unread = sum(file.stat().st_size for file in files if not is_remembered(file))
    if unread > _LARGE:
        _log.info("reading %.0f GB of weights in %s, to know them by their content: once", unread / 1e9, path)
    return fingerprint([[file.name, content_digest(file)] for file in files])


def config_digest(path: Path) -> str:
    if not (path / "config.json").exists():
        raise UserError(f"{path} has no config.json: it is not a model folder in Hugging Face form")
    return fingerprint(
        {key: value for key, value in _json(path / "config.json").items() if key not in _IDLE_CONFIG}
    )


def _tokenizer_digest(path: Path) -> str:
    known = {name: content_digest(path / name) for name in _TOKENIZER_FILES if (path / name).exists()}
    settings = {
        key: value
        for key, value in _json(path / "tokenizer_config.json").items()
        if key not in ("chat_template", "name_or_path")
    }
    # Where a response ends is part of how it is tokenised.
    ends = _json(path / "generation_config.json").get("eos_token_id")
    if not known:
        raise UserError(f"{path} has no tokenizer.json (nor tokenizer.model or vocab.json)")
    return fingerprint([known, settings, sorted(ends) if isinstance(ends, list) else [ends]])


def _template(model: Model, path: Path) -> tuple[str, str]:
    """The template's text, and where it is from."""
    if model.chat_template:
        return Path(
            included("prompts", model.chat_template, ".jinja")
        ).read_text(), f"model.chat_template = {model.chat_template}"
    if (path / "chat_template.jinja").exists():
        return (path / "chat_template.jinja").read_text(), "the model's own"
    own = _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(own, list):  # several named ones
        own = next((item["template"] for item in own if item.get("name") == "default"), None)
    if own:
        return own, "the model's own"
    return included("prompts", model.template, ".jinja").read_text(), f"model.template = {model.template}"


def identify(model: Model) -> Identity:
    """Digests of a model; raises UserError where the folder is not a safetensors model with a tokenizer."""
    path = resolve(model)
    text, origin = _template(model, path)
    config = _json(path / "config.json")
    limits = config.get("text_config") or config
    return Identity(
        path=path,
        weights=weights_digest(path),
        config=config_digest(path),
        tokenizer=_tokenizer_digest(path),
        # A template that asks for the date is told the recipe's: only then is it part of what the ids depend on.
        template=fingerprint([text, model.date if "strftime_now" in text or "date_string" in text else None]),
        template_text=text,
        template_from=origin,
        positions=int(limits.get("max_position_embeddings") or limits.get("n_positions") or 0),
    )
