"""Where engine and trainer meet: recipes, the SQL and the templates they name, the demo.

Importing it hands over where the files that ship lie, and the check of a loss's options
(schemas/extensions.py).
"""

from pathlib import Path

from schemas import extensions
from schemas.sections import Train


def _check_loss(train: Train) -> None:
    from trainer.losses import choose

    choose(train)


extensions.hand_over(__name__, Path(__file__).parent, _check_loss)
