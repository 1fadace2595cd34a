"""Small caches of a dozen batches for training, by the model and the dtype that they were made with."""

import json
import shutil
from pathlib import Path
from typing import Any

from engine.commands.precompute import precompute
from schemas.recipe import Recipe, load
from tests.conftest import RECIPE, ROOT, preferences, settings

SANDBOX = ROOT / "pipelines" / "sandbox" / "model"
_TRAIN = {
    "train__optimizer": "adamw",
    "train__batch_size": 8,
    "train__learning_rate": 3e-3,
    "train__max_steps": 2,
}


class Caches:
    """Caches that are made when they are first asked for. `folder`: where; `model`: the test model."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._models = {"sandbox": SANDBOX, "test": model}
        self._made: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}

    def copy(self, name: str, dtype: str, to: Path) -> tuple[Path, dict[str, Any]]:
        """A copy at `to` of the cache of a model (sandbox, test, test_bfloat16) in a dtype, and its recipe's
        settings."""
        if (name, dtype) not in self._made:
            self._made[name, dtype] = self._make(name, dtype)
        run, values = self._made[name, dtype]
        shutil.copytree(run, to)
        return to, values

    def _make(self, name: str, dtype: str) -> tuple[Path, dict[str, Any]]:
        folder = self._folder / f"{name}-{dtype}"
        folder.mkdir()
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 30)))
        values = {
            "prompts__source": rows,
            "prompts__shards": 1,
            "model__name": self._model(name),
            "model__dtype": dtype,
            "pairs__test_share": 0.3,
        }
        precompute(folder / "run", recipe_of(values), 1)
        return folder / "run", values

    def _model(self, name: str) -> Path:
        if name == "test_bfloat16" and name not in self._models:
            self._models[name] = _in_bfloat16(self._models["test"], self._folder / "model")
        return self._models[name]


def _in_bfloat16(model: Path, to: Path) -> Path:
    """A model folder with its weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, to)
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(to)
    return to


def recipe_of(values: dict[str, Any], **more: Any) -> Recipe:
    """The recipe of a cache with these settings of [train]."""
    return load(RECIPE, [word for word in settings(**values | _TRAIN | more) if word != "--set"])
