"""What cards (README.md) say of a run: texts from outside as Markdown shows them, its inputs, its recipe."""

from collections.abc import Mapping

from schemas.manifest import Facts
from schemas.plans import read_plan
from schemas.printable import one_line
from schemas.recipe import Recipe, dump
from schemas.redaction import redacted
from schemas.store import Store


def literal(text: object) -> str:
    """A text from outside as Markdown shows it letter by letter, also in a table: no markup, no HTML."""
    return "`" + one_line(redacted(str(text))).replace("`", "'").replace("|", "/") + "`"


def made_from(run: Store) -> list[str]:
    """A line for each input of a run, each model's weights, and each folder."""
    said: list[str] = []
    for stage in read_plan(run)[0]:
        facts: Facts = stage.facts
        inputs = facts.get("input")
        if isinstance(inputs, Mapping):
            for name, digest in inputs.items():
                said.append(f"input {literal(name)}, sha256 {digest}")
        model = facts.get("model")
        if isinstance(model, Mapping):
            model = model.get("weights", "")
        if model:
            said.append(f"{stage.stage}: model weights {literal(model)}")
        said.append(f"{stage.stage}: folder {stage.folder}")
    return said


def recipe_block(recipe: Recipe) -> list[str]:
    """The recipe as lines of a fenced block, whose fence is longer than any in a recipe's text."""
    text = redacted(dump(recipe).decode())
    fence = "````"
    while fence in text:
        fence += "`"
    return [f"{fence}toml", text.rstrip(), fence]
