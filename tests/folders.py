"""A run folder changed as if it had been made so: files, markers, the shards made from them, manifests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.digest import sha256_file
from schemas.manifest import MANIFEST, read_facts, read_markers, write_manifest, write_marker
from schemas.store import open_store


def made_otherwise(folder: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite a folder's rows of a table; whatever they say now, its markers and its manifest say too."""
    store = open_store(folder)
    markers = []
    for marker in read_markers(store):
        files = []
        for file in marker.files:
            path = folder / file.name
            if file.table == table:
                pq.write_table(change(pq.read_table(path)), path)
            size = path.stat().st_size
            files.append(replace(file, sha256=sha256_file(path), size=size))
        markers.append(replace(marker, files=tuple(files)))
        write_marker(store, markers[-1])
    if store.exists(MANIFEST):
        write_manifest(store, read_facts(store), markers)
