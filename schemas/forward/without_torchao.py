"""transformers imported without torchao, which it loads wherever it is installed.

That takes half a second and prints warnings of torchao's own in every process. Only the optimizers need it
(trainer/optimizers.py), and they import it themselves. Import this module before anything of transformers'
models.
"""

import sys


def _import_models() -> None:
    """Import what looks for torchao while Python is told that there is none."""
    if "torchao" in sys.modules:
        return
    sys.modules["torchao"] = None  # type: ignore[assignment]
    try:
        import transformers.modeling_utils  # noqa: F401
    finally:
        del sys.modules["torchao"]


_import_models()
