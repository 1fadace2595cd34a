"""What the options of all losses have in common: they check themselves, and they say what the loss needs.

A loss's Config is a section of the recipe, so each field states its allowed values (schemas/fields.py).
"""

from dataclasses import dataclass

from schemas.fields import Section


@dataclass(frozen=True)
class Options(Section):
    """Base of the losses' configs. Raises UserError for a value that its field does not allow."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What the loss reads of a pair beyond what every loss reads: names in trainer/needs.py."""
        return ()

    @classmethod
    def title(cls) -> str:
        """How the options are written in a recipe: [train.dpo] for those in dpo.py."""
        _, _, module = cls.__module__.rpartition(".")
        return f"[train.{module}]"
