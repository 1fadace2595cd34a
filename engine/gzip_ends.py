"""What follows the end of gzip data: zeros are padding, as tapes and block devices leave it; else damage."""

import os
import zlib
from pathlib import Path

_CHUNK = 1 << 20
_BEGINNING = b"\x1f\x8b"
_ENDS_WITH = 8  # a checksum and a length: eight zeros end what is empty, nine are padding


def is_padded(path: Path) -> bool:
    """True if the file ends in so many zeros that they are no part of gzip data."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _ENDS_WITH - 1))
        return file.read() == bytes(_ENDS_WITH + 1)


def goes_on_behind(path: Path) -> bool:
    """True if something that is no gzip data follows gzip data that is whole."""
    member = zlib.decompressobj(wbits=31)
    has_ended = False
    with open(path, "rb") as file:
        data = file.read(_CHUNK)
        while data:
            if has_ended:
                if not data.startswith(_BEGINNING):
                    return True
                member = zlib.decompressobj(wbits=31)
            try:
                while data and not member.eof:
                    member.decompress(data, _CHUNK)
                    data = member.unconsumed_tail or member.unused_data
            except zlib.error:
                return False
            has_ended = member.eof
            data = data or file.read(_CHUNK)
    return False
