"""What the evidence is run on: sizes, seeds, and the recipe of every cache."""

from dataclasses import dataclass
from pathlib import Path

RECIPE = Path(__file__).with_name("market.toml")
SEARCH_SEEDS = (1000, 1001)  # of the caches that learning rates and β are chosen on
SEARCH_TEST_SEED = 1000  # of the problems that they are chosen by
TEST_SEED = 2000  # of the test problems, the same for all seeds


@dataclass(frozen=True)
class Setting:
    """`problems`: that each seed's cache is made of; a tenth of them are held out by [pairs].

    `test_problems`: that every policy answers `samples` times; `search_problems`: that settings are chosen
    by. `workers`: processes side by side, with one thread each."""

    seeds: int = 5
    problems: int = 1200
    test_problems: int = 500
    search_problems: int = 400
    samples: int = 1
    workers: int = 2

    @property
    def seed_numbers(self) -> range:
        """The seeds that claims are judged by."""
        return range(self.seeds)


# Nothing is left to chance in the choice: which two were compared was settled before they were bridged.
_BRIDGED = ("pairs.choose=rewritten_vs_parent", "pairs.label_temperature=1")
# Variant of the pairs -> settings over the recipe's. All are from the one cache of a seed, but that of the
# worse rewriter, which has rewrites of its own.
VARIANTS: dict[str, tuple[str, ...]] = {
    "independent": (),
    "certain": ("pairs.label_temperature=0",),
    "10 % flipped": ("pairs.label_noise=0.1",),
    "20 % flipped": ("pairs.label_noise=0.2",),
    "30 % flipped": ("pairs.label_noise=0.3",),
    "bridged": _BRIDGED,
    "bridged worse": ("rewrite.temperature=1.5", *_BRIDGED),
}


def folder_of(variant: str) -> str:
    """A variant's name as that of a folder."""
    return variant.replace(" % ", "-").replace(" ", "-")
