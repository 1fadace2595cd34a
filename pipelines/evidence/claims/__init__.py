"""The claims, one file each; a new one is a file and a line here."""

import importlib

from pipelines.evidence.claims.claim import Claim

NAMES = ("dpo", "ipo", "sr", "rpo", "bmc", "reuse")


def claim(name: str) -> Claim:
    """A claim by its name."""
    found: Claim = importlib.import_module(f"{__name__}.{name}").CLAIM
    return found
