"""Text in colours. A part is made printable before it is coloured: no text brings colours of its own."""

import re
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from schemas import screen
from schemas.printable import printable
from schemas.screen import encodable


class Part(NamedTuple):
    """Some text and how it looks: what click.style takes. `plain`: how it is marked where there is no colour,
    before and after it."""

    text: str
    style: Mapping[str, Any] = MappingProxyType({})
    plain: tuple[str, str] = ("", "")


def has_colours() -> bool:
    """Whether standard output shows colours."""
    return screen.has_colours(sys.stdout)


def styled(parts: Iterable[Part], in_colour: bool) -> str:
    """The parts as one text."""
    written: list[str] = []
    for part in parts:
        text = encodable(printable(part.text))
        if in_colour and part.style:
            written.append(click.style(text, **part.style))
        elif in_colour:
            written.append(text)
        else:
            written.append(f"{part.plain[0]}{text}{part.plain[1]}")
    return "".join(written)


_WORDS = re.compile(r"\n|[^\S\n]+|\S+")


def folded(parts: Iterable[Part], width: int, indent: int) -> list[Part]:
    """The parts in lines of at most `width` characters, begun by so many spaces; words are kept whole."""
    begin = " " * indent
    folded: list[Part] = [Part(begin)]
    column = indent
    for part in parts:
        text = ""
        for word in _WORDS.findall(part.text):
            if word == "\n":
                text, column = text + "\n" + begin, indent
            elif column + len(word) > width and column > indent:
                word = word.lstrip()
                text, column = text + "\n" + begin + word, indent + len(word)
            else:
                text, column = text + word, column + len(word)
        folded.append(part._replace(text=text))
    return folded
