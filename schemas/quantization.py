"""model.quantization: what it needs. How weights are loaded by it is schemas/forward/quantized.py."""

import importlib.util

from schemas.errors import UserError

NONE = "none"


def check(quantization: str) -> None:
    """Raise UserError where a package that it needs is not installed."""
    if quantization == NONE:
        return
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f'model.quantization = "{quantization}" needs {" and ".join(missing)}: '
            'pip install "prefmill[bitsandbytes]"'
        )
