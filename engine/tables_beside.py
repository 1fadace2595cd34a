"""Tables of one's own beside a run's: RUN/tables/NAME.parquet, for `engine sql` and `engine report`.

What was measured elsewhere (answers of a trained policy, people's votes) can so be asked together with what
the run holds. They are no part of it: no manifest names them, nothing is made of them, and nothing in a run
changes them.
"""

import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.described import names
from engine.table_files import TableFiles
from schemas.errors import UserError
from schemas.store import Store

FOLDER = "tables"
_SUFFIX = ".parquet"
_NAME = re.compile("[a-z][a-z0-9_]*")


def write_beside(run: Store, name: str, rows: pa.Table) -> None:
    """Put a table beside a run's, in the place of one of that name. Raises UserError for a name of ours."""
    _check_name(run, name)
    file = io.BytesIO()
    pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
    run.child(FOLDER).put(f"{name}{_SUFFIX}", file.getvalue())


def names_beside(run: Store) -> list[str]:
    """The names of the tables that lie beside a run's. Raises UserError for one that no table can have."""
    found = [name.removesuffix(_SUFFIX) for name in run.child(FOLDER).names(f"*{_SUFFIX}")]
    for name in found:
        _check_name(run, name)
    return found


def read_beside(run: Store, name: str) -> pa.Table:
    """One of them. Raises UserError where it is no Parquet file, or damaged."""
    folder = run.child(FOLDER)
    try:
        data = pa.BufferReader(folder.read(f"{name}{_SUFFIX}"))
        return pq.ParquetFile(data, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"{folder.where(name + _SUFFIX)} cannot be read as a table: {first_line}; write it again, or "
            "remove it"
        ) from None


def copied(run: Store, folder: Path) -> TableFiles:
    """Copies of them in a folder, for a process that queries them. Raises UserError as `read_beside` does."""
    files: TableFiles = {}
    for name in names_beside(run):
        path = folder / f"{name}{_SUFFIX}"
        pq.write_table(read_beside(run, name), path, write_page_checksum=True)
        files[name] = [str(path)]
    return files


def _check_name(run: Store, name: str) -> None:
    where = run.child(FOLDER).where(name + _SUFFIX)
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: a table's name is small letters, digits and _, such as votes.parquet")
    if name in names():
        raise UserError(f"{where}: a run has a table {name} of its own; give the file another name")
