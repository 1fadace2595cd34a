"""What a config.json may not choose: native code from the Hugging Face hub.

transformers takes the name of a repository for an implementation of attention or of experts, and then loads
its compiled code. A config.json may be anybody's: only transformers' own plain implementations may be named.
"""

from typing import Any

_CHOOSING = ("attn_implementation", "experts_implementation")
_PLAIN = ("eager", "sdpa")
_RENAMING = "attribute_map"  # of a config's class: it could give the keys above other names


def drop_kernels(config: dict[str, Any]) -> bool:
    """Take out of a config, at any depth, what could name such code. True if there was any.

    What is taken out is only how something is computed, never what."""
    is_changed = False
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            for key in list(one):
                if _may_choose(key, one[key]):
                    del one[key]
                    is_changed = True
            waiting.extend(one.values())
    return is_changed


def _may_choose(key: str, value: object) -> bool:
    if key == _RENAMING:
        return True
    return any(name in key for name in _CHOOSING) and value is not None and value not in _PLAIN
