"""Reading a file of a model's folder, which may be anybody's: empty, no JSON, or a pointer of Git LFS."""

import json
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.plain_files import MOST_JSON, read_plain

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_LFS_REMEDY = "run `git lfs pull` in the folder, or download it again (`hf download`)"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder; empty where there is no file.

    Raises UserError where it holds anything else."""
    if not path.exists():
        return {}
    data = read_content(path, MOST_JSON)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; get the folder again") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds no JSON object but {type(value).__name__} ({str(value)[:40]}): get it again"
        )
    return value


def read_content(file: Path, most: int) -> bytes:
    """A file's bytes. Raises UserError as `read_plain` and `check_is_content` do."""
    data = read_plain(file, most)
    _check_begin(file, data)
    return data


def check_is_content(file: Path) -> None:
    """Raise UserError where a file is empty, or stands for one that Git LFS has not fetched."""
    with open(file, "rb") as opened:
        _check_begin(file, opened.read(len(_LFS_POINTER)))


def _check_begin(file: Path, data: bytes) -> None:
    begin = data[: len(_LFS_POINTER)]
    if not begin:
        raise UserError(f"{file} is empty: get it again")
    if begin == _LFS_POINTER:
        raise UserError(f"{file} is a Git LFS pointer, not the file itself: {_LFS_REMEDY}")
