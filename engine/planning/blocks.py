"""Rows of a text file by the block of bytes that they begin in.

- The blocks tile the file, and a row belongs to the block that holds its first byte: every row is in one
  block, whatever the rows' lengths. So rows of blocks drawn at random are a fair sample, where the rows that
  lie at random bytes would be the long ones.
- A block is read by itself: of the file no more than the block, the end of the row that begins last in it,
  and for that at most `limit` bytes.
"""

from collections.abc import Callable
from pathlib import Path

BLOCK = 16 << 10  # bytes
_NEWLINE = b"\n"


def blocks_of(size: int) -> int:
    """How many blocks a file of so many bytes has."""
    return -(-size // BLOCK)


def rows_in_block(path: Path, number: int, limit: int) -> bytes:
    """The bytes of the lines that begin in a block, each with its newline; empty where none does.

    Of a last line of more than `limit` bytes there are `limit + 1` at least, so that it is still too long."""
    begin = number * BLOCK
    with open(path, "rb") as file:
        # One byte before, which says whether a line begins where the block does.
        file.seek(max(0, begin - 1))
        data = file.read(BLOCK + (begin > 0))
        at_end = file.tell()
        start = 0 if begin == 0 else data.find(_NEWLINE) + 1
        if begin and start == 0:
            return b""
        data = data[start:]
        if not data or data.endswith(_NEWLINE):
            return data
        file.seek(at_end)
        data += _rest_of_line(file.read, limit)
    return data


def _rest_of_line(read: Callable[[int], bytes], limit: int) -> bytes:
    """The bytes up to the next newline, that included, or a few more than `limit` of them."""
    parts: list[bytes] = []
    length = 0
    while length <= limit:
        part = read(min(BLOCK, limit + 1 - length))
        if not part:
            break
        end = part.find(_NEWLINE) + 1
        if end:
            parts.append(part[:end])
            break
        parts.append(part)
        length += len(part)
    return b"".join(parts)
