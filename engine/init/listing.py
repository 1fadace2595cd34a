"""The recipes that ship, by name, each with what the first line of its head says it is."""

from schemas.extensions import files
from schemas.recipe_paths import RECIPES, SUFFIX


def recipes() -> dict[str, str]:
    """Name -> what it is, in the order of names."""
    found: dict[str, str] = {}
    for path in files(RECIPES, SUFFIX):
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
        found[path.stem] = first.removeprefix("#").strip()
    return found
