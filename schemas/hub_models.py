"""Where a model is: the folder of its name, else its snapshot from the hub, or in the hub's cache."""

import shlex
from pathlib import Path

from schemas import fetching
from schemas.errors import UserError

_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.spm", "*.codes", "*.tokenizer")


def find(name: str, revision: str) -> Path:
    """The folder of a model; `revision` is of a name on the hub. Raises UserError where there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no model folder at {name}")
    if not fetching.is_allowed():
        return _fetched_before(name, revision)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model '{name}' is no folder here and the hub does not give it: {reason}") from None


def _fetched_before(name: str, revision: str) -> Path:
    """The snapshot in the hub's cache, without asking the hub. Raises UserError where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(_WANTED), local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise UserError(
            f"model '{name}' is no folder here and not in the hub's cache, and this command fetches "
            f"nothing: `hf download {shlex.quote(name)} --revision {shlex.quote(revision)}` does"
        ) from None
    return Path(found)
