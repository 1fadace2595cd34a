"""Reading a file that may be anybody's: no pipe in its place is waited for, and no device fills the memory.

A link is followed, since the folders of the Hugging Face cache are made of them.
"""

import os
import stat
from pathlib import Path

from schemas.errors import UserError

MOST_JSON = 100 << 20  # bytes of a file of settings
MOST_TEXT = 16 << 20  # of a prompt, SQL or a recipe
MOST_TEMPLATE = 1 << 20  # of a chat template
# What a shell gives for `-` and `<(…)`: a pipe of the command's own, at whose other end somebody writes.
_OWN_HANDLES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def read_plain(file: Path, most: int, or_own_pipe: bool = False) -> bytes:
    """A file's bytes. Raises UserError where it is no plain file or holds more than `most` bytes.

    `or_own_pipe`: /dev/stdin and what a shell makes of `<(…)` may be read too. An OSError is its caller's."""
    is_own = or_own_pipe and str(file).startswith(_OWN_HANDLES)
    # Opening a pipe would else wait for somebody who writes to it.
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(handle, "rb") as opened:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", str(file))
        if not stat.S_ISREG(mode) and not is_own:
            raise UserError(f"{file} is {_kind(mode)}, not a plain file: put the file itself in its place")
        os.set_blocking(handle, True)
        data = opened.read(most + 1)
    if len(data) > most:
        raise UserError(
            f"{file} has more than {most >> 20} MiB, which no file of its kind has: put the right one there"
        )
    return data


def plain_text(data: bytes) -> str:
    """A file's bytes as the text of a prompt: no mark of byte order and no line end of Windows gets into it.

    Raises UnicodeDecodeError where they are not UTF-8."""
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a socket"
