"""The files of a folder by their bytes, and what two folders differ in."""

import hashlib
import re
from pathlib import Path


class Tree(dict[str, bytes]):
    """The bytes of files by their paths."""


# Locks, and how long things took, are no part of what was made.
_NOT_MADE = re.compile(r"\.lock|\.swap|clock\.jsonl|clock\.[0-9a-f]+\.json")


def is_made(name: str) -> bool:
    """Whether a file of this name is part of what was made."""
    return not _NOT_MADE.fullmatch(name.rpartition("/")[2])


def tree(folder: Path) -> Tree:
    """Every file's bytes by its path below the folder, for all that was made in it."""
    return Tree(
        (str(path.relative_to(folder)), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and is_made(path.name)
    )


def differences(left: Tree, right: Tree) -> list[str]:
    """A line for each file that only one of them has, and both contents of one that differs."""
    lines = ["the files of two folders"]
    for name in sorted(left.keys() | right.keys()):
        if name not in right:
            lines.append(f"only on the left: {name}")
        elif name not in left:
            lines.append(f"only on the right: {name}")
        elif left[name] != right[name]:
            lines.append(f"{name} differs:")
            lines.extend(f"  {_excerpt(one[name])}" for one in (left, right))
    return lines


def _excerpt(content: bytes) -> str:
    """A file in a line or a few: texts up to 2,000 characters, else its size and its digest."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}"
    return text[:2000]
