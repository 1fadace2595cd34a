"""Data for a page: compressed by gzip, as text in base64, which the page's script unpacks."""

import base64
import zlib

_GZIP = 31  # zlib's name for it
_LETTERS_FOR_BYTES = 4 / 3  # of base64


class Packer:
    """Packs texts as long as there is room. `room`: bytes that the packed text may take."""

    def __init__(self, room: float):
        self._room = room / _LETTERS_FOR_BYTES
        self._compressor = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, text: str) -> bool:
        """Add a text; False, and it is left out, where there is no room for it."""
        with_it = self._compressor.copy()
        part = with_it.compress(text.encode()) + with_it.flush(zlib.Z_SYNC_FLUSH)
        if self._size + len(part) > self._room:
            return False
        self._compressor = with_it
        self._parts.append(part)
        self._size += len(part)
        return True

    def packed(self) -> str:
        """All of it. Nothing can be added afterwards."""
        return base64.b64encode(b"".join([*self._parts, self._compressor.flush()])).decode()


def packed(text: str) -> str:
    """A text, whole."""
    packer = Packer(float("inf"))
    packer.add(text)
    return packer.packed()
