"""The tables of a run as Arrow data sets over their shards, for SQL and for whoever reads them in Python."""

from collections.abc import Collection
from typing import Any

import duckdb
import pyarrow.dataset as ds

from engine import metrics_table
from engine.described import VIEWS
from engine.table_files import TableFiles, table_files
from schemas.store import Store
from schemas.tables import TABLES


def views(run: Store) -> dict[str, ds.Dataset]:
    """Every table of a run, with the rows finished at this moment. A table without rows has its columns."""
    return views_of(table_files(run))


class _Files(ds.FileSystemDataset):
    """A dataset that forgets a file's metadata once it is read: 160 KB of each of ten thousand files else."""

    def scanner(self, **options: Any) -> ds.Scanner:
        return super().scanner(**options | {"cache_metadata": False})


def views_of(shards: TableFiles) -> dict[str, ds.Dataset]:
    """The tables that lie in these files."""
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
    datasets: dict[str, ds.Dataset] = {}
    for name, paths in shards.items():
        # Of a table beside the run's (engine/tables_beside.py) its file says what is in it.
        schema = metrics_table.SCHEMA if name == metrics_table.NAME else TABLES.get(name)
        if paths:
            found = ds.dataset(paths, schema=schema, format=parquet)
            datasets[name] = _Files(list(found.get_fragments()), found.schema, parquet, found.filesystem)
        elif schema is not None:
            datasets[name] = ds.dataset(schema.empty_table())
    return datasets


def add_readable(con: duckdb.DuckDBPyConnection, tables: Collection[str]) -> None:
    """Let a connection that sees these tables also see the views of them that are easy to read."""
    for name, (table, query) in VIEWS.items():
        if table in tables:
            con.execute(f"create temp view {name} as {query}")
