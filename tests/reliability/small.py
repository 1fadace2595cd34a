"""A small run for the tests of what is asked of it and what is printed: made in a second, without a model."""

import json
from pathlib import Path

from engine.commands.precompute import precompute
from schemas.recipe import load

ROWS = 12


def small_run(folder: Path, rows: list[dict] | None = None) -> Path:
    """A finished run in `folder`, of a few pairs or of the rows given."""
    if rows is None:
        rows = []
        for number in range(ROWS):
            rows.append({"prompt": f"what is {number}?", "chosen": f"a {number}", "rejected": "no"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text("[prompts]\nshards = 2\n[given]\n")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load(str(folder / "recipe.toml"), [f"prompts.source={folder / 'rows.jsonl'}"])
    precompute(folder / "run", recipe, 1)
    return folder / "run"
