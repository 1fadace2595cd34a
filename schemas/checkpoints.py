"""What a checkpoint of training says of its own files: state.json holds the sha256 of every other one.

A flipped bit in a weight loads without a word and trains another policy. So a checkpoint is looked at before
any of its files is used: by the trainer that goes on from it, and wherever it is used as a model. One that
was made before there were digests is taken as it is.
"""

import json
from pathlib import Path
from typing import Any

from schemas.digest import content_digest, sha256_file
from schemas.errors import UserError
from schemas.model_files import is_read_of_model
from schemas.sealed import SEAL, seal, unsealed

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
_FILES = "files"


def state_bytes(position: dict[str, Any], folder: Path) -> bytes:
    """state.json of a checkpoint whose other files are all in `folder`: the position, and their digests."""
    files = {name: sha256_file(folder / name) for name in names(folder)}
    return _bytes(seal(position | {_FILES: files}))


def has_digests(folder: Path) -> bool:
    """False for a checkpoint from before there were digests, whose state can be read."""
    state = _read(folder)
    return state is None or _FILES in state or SEAL in state


def position_of(folder: Path) -> dict[str, Any] | None:
    """What was given to `state_bytes`, with the digests; None where state.json is not whole."""
    state = _read(folder)
    if state is None or not (_FILES in state or SEAL in state):
        return state
    # Also what makes no difference to JSON, such as 1E-05 for 1e-05, is not as it was written.
    if SEAL not in state or (folder / STATE).read_bytes() != _bytes(state):
        return None
    return unsealed(state)


def damage(folder: Path, *, afresh: bool = False, as_model: bool = False) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is whole, or has no digests.

    `afresh` reads every byte again instead of remembering digests. `as_model` looks at what a model is read
    from, not at the optimizer. Raises OSError where a file cannot be read."""
    state = position_of(folder)
    if state is None:
        return f"{STATE} is not as it was written" if (folder / STATE).exists() else f"{STATE} is gone"
    if _FILES not in state:
        return None
    expected: dict[str, str] = state[_FILES]
    digest_of = sha256_file if afresh else content_digest
    for name, digest in expected.items():
        if as_model and name == OPTIMIZER:
            continue
        if not (folder / name).is_file():
            return f"{name} is gone"
        if digest_of(folder / name) != digest:
            return f"{name} is not as it was written: another sha256"
    for name in names(folder):
        if name not in expected and is_read_of_model(name):
            return f"{name} was put into it later"
    return None


def is_one(names: list[str] | None) -> bool:
    """True if a folder holds what a checkpoint is made of, or nothing at all; not if it is a person's own.

    `names`: what is in it; None where there is no such folder."""
    if names is None:
        return False
    return not names or any(name == STATE or is_read_of_model(name) for name in names)


def parted(folder: Path, source: Path) -> tuple[list[str], list[str]]:
    """The files in a checkpoint's folder: ours, state.json last; and those of a person, that no loader reads.

    `source`: the model that was trained. A checkpoint has files of it, and one from before there were digests
    does not say which."""
    state = position_of(folder) or {}
    ours: list[str] = []
    theirs: list[str] = []
    for name in names(folder):
        is_listed = name in state[_FILES] if _FILES in state else (source / name).exists()
        is_ours = is_listed or is_read_of_model(name)
        (ours if is_ours else theirs).append(name)
    return [*ours, STATE], theirs


def check_as_model(folder: Path) -> None:
    """Raise UserError where a model folder is a checkpoint of training that is not whole."""
    if not (folder / STATE).is_file():
        return
    if _read(folder) is None and not (folder / OPTIMIZER).exists():
        return  # somebody else's file of that name
    found = damage(folder, as_model=True)
    if found:
        raise UserError(
            f"{folder} is damaged: {found}; the `trainer run` that made it makes it again, and another "
            f"checkpoint beside it may be whole; if you changed it yourself, delete its {STATE}: it is then "
            "a model folder like any other"
        )


def _read(folder: Path) -> dict[str, Any] | None:
    """The object in state.json; None where there is none."""
    try:
        value = json.loads((folder / STATE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _bytes(state: dict[str, Any]) -> bytes:
    text = json.dumps(
        state,
        indent=1,
        sort_keys=True,
        allow_nan=False,
    )
    return text.encode()


def names(folder: Path) -> list[str]:
    """The files of a checkpoint but state.json, with those in its folders, in order."""
    names: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != STATE:
            names.append(name)
    return names
