"""The caches: for each seed a run folder with all that its trainings need, and the variants of its pairs.

    seed-0/problems.jsonl
    seed-0/cache/             the run folder of the engine
    seed-0/<variant>/         the plan, the recipe and the pairs of a variant, where its trainings lie

Pairs can travel: with the plan and the recipe they are all that the trainer reads, so trainings of several
variants run side by side.
"""

import json
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from engine.commands.precompute import precompute
from pipelines.evidence.rewriters import rewriter_figures
from pipelines.evidence.setting import RECIPE, SEARCH_TEST_SEED, TEST_SEED, VARIANTS, Setting, folder_of
from pipelines.sandbox import market
from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.manifest import PLAN
from schemas.manifest import RECIPE as RECIPE_OF_RUN
from schemas.plans import read_plan
from schemas.recipe import Recipe, load
from schemas.store import open_store

_MADE = "made.json"  # how long a variant took to make, and what its rewriter did
_ASKED = "asked"
FIRST = next(iter(VARIANTS))  # it is made first: its time is that of the whole cache


def problems(seed: int, count: int) -> list[str]:
    """Problems that a seed's policies are measured on, as prompts."""
    return [row["prompt"] for row in market.prompts(seed, count)]


def make(folder: Path, seed: int, variants: Collection[str], setting: Setting) -> None:
    """Make a seed's cache, and those variants that are not there yet."""
    for variant in variants:
        _check_as_asked(folder, variant, setting)
    source = folder / "problems.jsonl"
    if not source.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = source.with_suffix(".new")
        new.write_text(
            "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in _own_problems(seed, setting))
        )
        new.rename(source)
    missing = [name for name in VARIANTS if name in variants and not (folder / folder_of(name)).exists()]
    for variant in missing:
        _make_variant(folder, seed, variant, source, _asked(variant, setting))
    if missing:
        # The plan of the cache is that of its usual pairs, whatever was made last.
        precompute(folder / "cache", _recipe(seed, FIRST, source), workers=1)


def _asked(variant: str, setting: Setting) -> str:
    """A digest of all that a variant is asked for: its recipe, its settings, the problems."""
    problems_of = [setting.problems, setting.test_problems, setting.search_problems]
    return fingerprint([RECIPE.read_text(), list(VARIANTS[variant]), problems_of])


def _check_as_asked(folder: Path, variant: str, setting: Setting) -> None:
    """Raise UserError where a variant is there that was asked for otherwise: it would be stale."""
    path = folder / folder_of(variant) / _MADE
    if path.exists() and json.loads(path.read_text()).get(_ASKED) != _asked(variant, setting):
        raise UserError(
            f"{path.parent} was made with another recipe, or for other numbers of problems: give the same "
            "numbers again, or name another folder with -o"
        )


def _recipe(seed: int, variant: str, source: Path) -> Recipe:
    settings = (f"seed={seed}", f"prompts.source={source}", *VARIANTS[variant])
    return load(RECIPE, settings)


def _own_problems(seed: int, setting: Setting) -> list[str]:
    """Problems to train on: none that anything is measured on."""
    measured = set(problems(TEST_SEED, setting.test_problems))
    measured.update(problems(SEARCH_TEST_SEED, setting.search_problems))
    own: list[str] = []
    for prompt in problems(seed + 1, setting.problems + len(measured)):
        if prompt not in measured and len(own) < setting.problems:
            own.append(prompt)
    return own


def _make_variant(folder: Path, seed: int, variant: str, source: Path, asked: str) -> None:
    begun = time.monotonic()
    run = folder / "cache"
    precompute(run, _recipe(seed, variant, source), workers=1)
    seconds = time.monotonic() - begun
    planned, _ = read_plan(open_store(run))
    (pairs,) = [stage.folder for stage in planned if stage.stage == "pairs"]
    new = folder / f"{folder_of(variant)}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name in (PLAN, RECIPE_OF_RUN):
        shutil.copy2(run / name, new / name)
    shutil.copytree(run / pairs, new / pairs)
    (new / _MADE).write_text(json.dumps({"seconds": seconds, _ASKED: asked} | rewriter_figures(run)))
    new.rename(folder / folder_of(variant))


def made(folder: Path, variant: str) -> dict[str, float]:
    """How long the engine worked for a variant beyond what was there, and the figures of its rewriter."""
    found = json.loads((folder / folder_of(variant) / _MADE).read_text())
    del found[_ASKED]
    return dict(found)
