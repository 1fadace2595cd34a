"""The chat template of a model's folder: where it may stand, and which one it is.

transformers reads chat_template.jinja and additional_chat_templates/*.jinja, else tokenizer_config.json; its
processors still read chat_template.json. Where several places hold a template, transformers takes the first
without a word; here they must say the same.
"""

from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.model_content import read_content, read_json
from schemas.model_files import TOKENIZER_CONFIG
from schemas.plain_files import MOST_TEMPLATE, plain_text

_JINJA = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
_OF_PROCESSOR = "chat_template.json"
_DEFAULT = "default"
_REMEDY = "name a .jinja file by model.chat_template"


def read_template(file: Path) -> str:
    """A template's file. Raises UserError where it holds none."""
    data = read_content(file, MOST_TEMPLATE)
    try:
        return plain_text(data)
    except ValueError as error:
        raise UserError(f"{file} is not UTF-8: {error}; {_REMEDY}") from None


def own_template(path: Path) -> str | None:
    """The model's own chat template; None where it has none.

    Raises UserError where that cannot be known: other texts in two places, or several names and none of them
    is `default`."""
    places = {
        _JINJA: _of_jinja_files(path),
        TOKENIZER_CONFIG: _by_name(path / TOKENIZER_CONFIG),
        _OF_PROCESSOR: _by_name(path / _OF_PROCESSOR),
    }
    found: dict[str, str] = {}
    for place, named in places.items():
        if not named:
            continue
        if _DEFAULT not in named:
            if found:
                continue  # it adds to the template of the place before
            names = ", ".join(sorted(named))
            where = MORE_TEMPLATES if place == _JINJA else place
            raise UserError(
                f"{path} has chat templates in {where} and none of them is called "
                f"default: {names}; {_REMEDY} (copy the one that is meant)"
            )
        found[place] = named[_DEFAULT]
    if not found:
        return None
    first, *others = found
    for other in others:
        if _as_rendered(found[other]) != _as_rendered(found[first]):
            raise UserError(
                f"{path} has two different chat templates, in {first} and in {other}: which is meant cannot "
                f"be known; remove one, or {_REMEDY}"
            )
    return found[first]


def _as_rendered(template: str) -> str:
    """Jinja leaves out one line end at a template's end."""
    return template.removesuffix("\n")


def _of_jinja_files(path: Path) -> dict[str, str]:
    """Name -> template, of the .jinja files."""
    named: dict[str, str] = {}
    if (path / _JINJA).exists():
        named[_DEFAULT] = read_template(path / _JINJA)
    for file in sorted((path / MORE_TEMPLATES).glob("*.jinja")):
        text = read_template(file)
        if file.stem == _DEFAULT and _as_rendered(named.get(_DEFAULT, text)) != _as_rendered(text):
            raise UserError(
                f"{path} has two different chat templates, in {_JINJA} and in {MORE_TEMPLATES}/{file.name}: "
                f"which is meant cannot be known; remove one, or {_REMEDY}"
            )
        named.setdefault(file.stem, text)
    return named


def _by_name(file: Path) -> dict[str, str]:
    """Name -> template, of a JSON file's `chat_template`: a text, several with names, or none."""
    value: Any = read_json(file).get("chat_template")
    if not value:
        return {}
    if isinstance(value, str):
        return {_DEFAULT: value}
    named: dict[str, str] = {}
    if isinstance(value, dict):
        named = value
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                named[item["name"]] = item.get("template", "")
    if not named or not all(isinstance(text, str) for text in named.values()):
        raise UserError(f"{file} has a chat_template that is neither a text nor texts with names; {_REMEDY}")
    return named
