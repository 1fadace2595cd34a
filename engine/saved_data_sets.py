"""Folders that `save_to_disk` of datasets has written: which of their files are the data.

- A data set: its `state.json` names the Arrow files. Another one beside them, such as cache-….arrow, which
  `map` and `filter` leave there, holds other rows.
- A DatasetDict: its `dataset_dict.json` names the folders, one a split.
"""

import json
from pathlib import Path
from typing import Any

from engine.input_errors import reading
from schemas.errors import UserError
from schemas.plain_files import MOST_JSON, read_plain

_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def data_files(folder: Path) -> frozenset[str] | None:
    """The names of the files that hold a saved data set's rows; None where a folder holds none.

    Raises UserError where a file is not there, and for rows that are selected by a list of indices beside."""
    state = _read(folder / _STATE)
    if state is None or "_data_files" not in state:
        return None
    selected_by = [key for key, value in state.items() if key.startswith("_indices") and value]
    if selected_by:
        raise UserError(
            f"{folder} is a data set of which only some rows count, or in another order ({selected_by[0]} in "
            f"its {_STATE}); write these rows out: d = datasets.load_from_disk('{folder.name}'); "
            "d.flatten_indices().save_to_disk('flat')"
        )
    names: list[str] = []
    for file in state["_data_files"]:
        name = file.get("filename") if isinstance(file, dict) else None
        if not isinstance(name, str) or not (folder / name).is_file() or Path(name).name != name:
            raise UserError(
                f"{folder / _STATE} names {name}, which is no file beside it: copy the whole folder again"
            )
        names.append(name)
    return frozenset(names)


def splits(folder: Path) -> frozenset[str] | None:
    """The folders of a saved DatasetDict; None where a folder is none.

    Raises UserError where one is missing."""
    said = _read(folder / _SPLITS)
    if said is None or not isinstance(said.get("splits"), list):
        return None
    for name in said["splits"]:
        if not isinstance(name, str) or not (folder / name).is_dir():
            raise UserError(
                f"{folder / _SPLITS} names the split {name}, and no such folder is beside it: "
                "copy the whole folder again"
            )
    return frozenset(said["splits"])


def _read(path: Path) -> dict[str, Any] | None:
    """What a file of JSON says, None where there is none or it is no object. Raises UserError where it is
    damaged and Arrow files stand beside it."""
    try:
        with reading(path):
            value = json.loads(read_plain(path, MOST_JSON))
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except ValueError as error:
        if path.name == _STATE and not any(path.parent.glob("*.arrow")):
            return None  # of another program
        raise UserError(f"{path} is damaged ({error}): copy the whole folder again") from None
    return value if isinstance(value, dict) else None
