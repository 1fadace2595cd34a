"""The only code that touches a run folder.

- A store is a folder: names in it, folders below it (`child`). Everything that the project writes into a run
  goes through one: markers, manifests, facts, plans, Parquet files, the scan, checkpoints, metrics, verify's
  record.
- What is written appears whole or not at all.
- A name is that of something directly in the folder, so nothing that a file of a run names lies outside. The
  run's own location may be reached through links; within it there are none (`schemas/disk.py`).
- `open_store` chooses the implementation by the location: `schemas/local_store.py` for a folder of a disk,
  `schemas/object_store.py` for one in a bucket.
"""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from schemas import disk, object_store
from schemas.errors import UserError
from schemas.listing import Entry as Entry
from schemas.local_store import LocalStore as LocalStore
from schemas.store_protocol import Store as Store

_ADDRESS = re.compile(r"(https?|ftp|s3|gs|az|abfss?|hf|hdfs)://?[^/]")  # as a Path it has one stroke


def open_store(where: "str | Path | Store") -> Store:
    """The store at a location: a folder of a disk, or s3://, gs:// or az://. A store is returned as it is.

    Raises UserError for an address of another kind."""
    if not isinstance(where, str | Path):
        return where
    if object_store.is_address(str(where)):
        return object_store.object_store(str(where))
    if _ADDRESS.match(str(where)):
        raise UserError(
            f"{where}: a run folder is a folder on a disk, or s3://bucket/run, gs://bucket/run or "
            "az://container/run, and this is another address"
        )
    return LocalStore(Path(where))


def write_output(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file that a user asked for, outside any run: whole or not at all.

    What is no file, such as a named pipe or /dev/stdout, is written into; a file must not take its place."""
    if str(path).startswith("/dev/") or (path.exists() and not path.is_file()):
        with tempfile.TemporaryDirectory() as folder:
            filled = Path(folder) / "output"
            fill(filled)
            _copy_into(path, filled)
        return
    with disk.written(path, fill) as temporary:
        os.replace(temporary, path)


def _copy_into(place: Path, filled: Path) -> None:
    try:
        with open(place, "wb") as output:
            output.write(filled.read_bytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None
