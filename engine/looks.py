"""What a file that holds no rows looks like, from its name and its first 64 KiB, and what to do with it.

- `never_rows`: what no reader could make rows of: another encoding, an archive …
- `not_rows`: JSON, a table of text or other text that is not in rows. It is asked only where no row
  of a file could be read.
- Each look is a line of a table: the file is like this, it is recognised so, do that.
"""

import bz2
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from engine.input_errors import reading
from engine.json_looks import lists_look, objects_look, strings_look
from engine.text_looks import encoding_look, header_look, plain_look, python_look, table_look

_HEAD = 1 << 16
_RENAME = "give it the name of what it is"
_TO_JSON_LINES = ".to_json('rows.jsonl', orient='records', lines=True)"
_COMPRESSED = (".gz", ".zst", ".bz2")
# The encodings by their byte order marks, the longer first, and by a bracket at the beginning.
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\x00\x00\x00", "UTF-32LE"),
    (b"[\x00\x00\x00", "UTF-32LE"),
    (b"\x00\x00\x00{", "UTF-32BE"),
    (b"\x00\x00\x00[", "UTF-32BE"),
    (b"{\x00", "UTF-16LE"),
    (b"[\x00", "UTF-16LE"),
    (b"\x00{", "UTF-16BE"),
    (b"\x00[", "UTF-16BE"),
)
# Four letters of a header in two bytes each, without a mark.
_WIDE_LETTERS = ((rb"(?:[ -~]\x00){4}", "UTF-16LE"), (rb"(?:\x00[ -~]){4}", "UTF-16BE"))


class _Look(NamedTuple):
    """What a file looks like, how its first bytes are recognised, and what to do."""

    like: str
    pattern: bytes  # a regular expression at the beginning
    remedy: str


_UNPACK = "unpack it and name the files in it"
_OR_OURS = "; .gz, .zst and .bz2 are read as they are"
_LOAD = "load it in Python and write its rows as JSON Lines"
# Before Arrow 0.15 a stream began with the length of its schema.
_ARROW = rb"(?s)ARROW1|\xff\xff\xff\xff.{3}\x00"
_OLD_ARROW = rb"(?s)[^\x00].[\x00-\x0f]\x00[\x08-\x30]\x00\x00\x00"
_LOOKS = (
    _Look(
        "a pointer of Git LFS, not the file itself", rb"version https://git-lfs", "get it by `git lfs pull`"
    ),
    _Look("a page of HTML", rb"(?i)\s*(<!doctype html|<html|<head)", "download the file itself"),
    _Look("XML", rb"\s*<\?xml", "write its rows as JSON Lines"),
    _Look("an Excel workbook", rb"(?s)PK\x03\x04.*xl/", f"pandas.read_excel(FILE){_TO_JSON_LINES}"),
    _Look("a zip archive", rb"PK\x03\x04", _UNPACK),
    _Look("a tar archive", rb"(?s).{257}ustar", _UNPACK),
    _Look("a 7z archive", rb"7z\xbc\xaf\x27\x1c", _UNPACK),
    _Look("an xz file", rb"\xfd7zXZ\x00", f"unpack it by `xz -d`{_OR_OURS}"),
    _Look("an lz4 file", rb"\x04\x22\x4d\x18", f"unpack it by `lz4 -d`{_OR_OURS}"),
    _Look("a pickle", rb"\x80[\x02-\x05][\x95(}\]cX\x8c]", _LOAD),
    _Look("an SQLite data base", rb"SQLite format 3\x00", "write the rows of its table as JSON Lines"),
    _Look("Feather of version 1", rb"FEA1", "write it again with a newer pyarrow, which writes version 2"),
    _Look("an ORC file", rb"ORC", "write its rows as Parquet"),
    _Look("an Avro file", rb"Obj\x01", "write its rows as Parquet"),
    _Look("a PDF", rb"%PDF", "write its rows as JSON Lines"),
    _Look("a NumPy file", rb"\x93NUMPY", _LOAD),
    _Look("an HDF5 file", rb"\x89HDF", _LOAD),
)  # fmt: skip
# Kinds that are read, but only under a name of theirs.
_NAMED = (
    ("gzip", rb"\x1f\x8b", ".gz"),
    ("zstd", rb"\x28\xb5\x2f\xfd", ".zst"),
    ("bz2", rb"BZh[1-9]1AY&SY", ".bz2"),
    ("Parquet", rb"PAR1", ".parquet"),
    ("Arrow", _ARROW, ".arrow"),
)


def never_rows(path: Path) -> str | None:
    """What a file looks like that can never be rows, with what to do; None for any other."""
    head = _head(path)
    suffix = path.suffix.lower()
    if suffix == ".feather":
        suffix = ".arrow"  # two names of one kind
    for kind, pattern, own_suffix in _NAMED:
        is_of_kind = re.match(pattern, head) is not None
        if is_of_kind and suffix != own_suffix:
            return f"it is {kind} under another name; rename it to {path.name}{own_suffix}"
        if suffix == own_suffix and is_of_kind:
            return _inside(path, head, suffix)
    look = _binary_look(path, head)
    is_old = suffix == ".arrow" and re.match(_OLD_ARROW, head)
    if look is None and head and suffix in (*_COMPRESSED, ".arrow") and not is_old:
        suffix = path.suffix.lower()
        return f"it is named {suffix}, and its first bytes are not of that kind; {_RENAME}"
    return look


def _inside(path: Path, head: bytes, suffix: str) -> str | None:
    """What a compressed file holds that can never be rows."""
    if suffix not in _COMPRESSED:
        return None
    inner = _decompressed(path, head, suffix)
    for kind, pattern, _ in _NAMED:
        if re.match(pattern, inner):
            return f"it holds {kind} inside its compression; unpack it"
    return _binary_look(path, inner)


def _binary_look(path: Path, head: bytes) -> str | None:
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return f"it is text in {encoding}; rows are read in UTF-8: `{_recode(path, encoding)}`"
    for pattern, encoding in _WIDE_LETTERS:
        if re.match(pattern, head):
            return f"it looks like text in {encoding}; rows are read in UTF-8: `{_recode(path, encoding)}`"
    for look in _LOOKS:
        if re.match(look.pattern, head):
            return f"it looks like {look.like}; {look.remedy}"
    return None


def _recode(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > utf-8-{path.name}"


def not_rows(path: Path) -> str | None:
    """What a file looks like none of whose rows could be read, with what to do; None where nobody knows."""
    if path.suffix.lower() in (".parquet", ".arrow", ".feather"):
        return None
    head = _head(path)
    name = path.name
    suffix = path.suffix.lower()
    is_compressed = suffix in _COMPRESSED
    if is_compressed:
        head = _decompressed(path, head, suffix)
        name = path.stem
        suffix = path.with_suffix("").suffix.lower()
    found = _look_of_text(head, suffix)
    if found is None:
        return None
    unpacked = "; unpack it first" if is_compressed and "FILE" in found else ""
    return found.replace("FILE", name) + unpacked


def _look_of_text(head: bytes, suffix: str) -> str | None:
    """What the beginning of a text looks like, its file called FILE. `suffix`: of the file's name."""
    is_whole = len(head) < _HEAD
    not_utf8 = encoding_look(head, is_whole)
    if not_utf8:
        return not_utf8
    text = head.decode("utf-8-sig", errors="ignore").lstrip()
    if not text:
        return "it is empty"
    if suffix in (".csv", ".tsv"):
        return header_look(text, suffix)
    found = objects_look(text, is_whole)
    for look in (python_look, table_look, strings_look, lists_look, plain_look):
        found = found or look(text, suffix)
    return found


def _head(path: Path) -> bytes:
    with reading(path), open(path, "rb") as file:
        return file.read(_HEAD)


def _decompressed(path: Path, head: bytes, suffix: str) -> bytes:
    """The first bytes of what a compressed file holds, as far as they can be told."""
    try:
        if suffix == ".gz":
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
        if suffix == ".bz2":
            return bz2.BZ2Decompressor().decompress(head, _HEAD)
        with pa.input_stream(path, compression="zstd") as stream:
            return bytes(stream.read(_HEAD))
    except (zlib.error, OSError, pa.ArrowException):
        return b""
