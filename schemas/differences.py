"""In which facts two folders differ."""

import json

from schemas.digest import canonical


def difference(then: object, now: object, at: str = "") -> list[str]:
    """The facts in which two folders differ, as dotted names with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        differences: list[str] = []
        for key in sorted(then.keys() | now.keys()):
            differences += difference(then.get(key), now.get(key), f"{at}.{key}" if at else key)
        return differences
    if canonical(then) == canonical(now):
        return []
    return [f"{at} (was {_short(then)}, is {_short(now)})"]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else text[:12] + "…"
