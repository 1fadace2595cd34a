"""The pages that packages bring (their folder `docs/`), by name, in the order of their index.

A page is a Markdown file that begins with its title and, in a paragraph of its own, one line that says what
is in it. The page `index` links all others in the order in which they are listed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UserError, did_you_mean
from schemas.extensions import files

_TO_PAGE = re.compile(r"\[([^\]]+)\]\((?:(\w+)\.md)?(?:#[\w-]*)?\)")
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_LINK = re.compile(r"\]\((\w+)\.md\)")
_INDEX = "index"


@dataclass(frozen=True)
class Page:
    """A page: what is in it, in one line, and its file."""

    what: str
    path: Path

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def for_terminal(self) -> str:
        """The text with the commands that show other pages in the place of links to them."""
        return _TO_PAGE.sub(_as_command, _COMMENT.sub("", self.text()))


def _as_command(link: re.Match[str]) -> str:
    """A link to another page, or to a heading of the same one, which stays words alone."""
    words, page = link[1], link[2]
    if not page:
        return words
    command = f"`engine docs {page}`"
    return command if words == page else f"{words} ({command})"


def pages() -> dict[str, Page]:
    """All pages by name; those that the index does not link come last."""
    found: dict[str, Page] = {}
    for path in files("docs", ".md"):
        _, what, _ = f"{path.read_text(encoding='utf-8')}\n\n\n\n".split("\n\n", 2)
        found.setdefault(path.stem, Page(what.strip(), path))
    order = [_INDEX]
    if _INDEX in found:
        order += _LINK.findall(found[_INDEX].text())
    return dict(sorted(found.items(), key=lambda item: _place(item[0], order)))


def _place(name: str, order: list[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def page_of(name: str) -> Page:
    """A page by its name. Raises UserError with the nearest one where there is none."""
    found = pages()
    if not found:
        raise UserError(
            "no installed package brings pages: install prefmill again (pip install -e . in its folder)"
        )
    if name.removesuffix(".md") not in found:
        raise UserError(f"no page '{name}'; {did_you_mean(name, found)} (`engine docs` lists them)")
    return found[name.removesuffix(".md")]
