"""The same bits each time, on a GPU too.

On a CPU they are so anyway, on one number of threads. On a GPU the backward pass of flash attention, and sums
into rows that several threads add to (the embedding's gradient, index_add), come out in another order each
time. torch has ordered algorithms for these; they are slower. Forward passes are the same bits without.
"""

import os

import torch

from schemas.errors import UserError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")  # of cuBLAS's documentation: with them its sums have one order


def use_deterministic(wanted: bool) -> None:
    """Choose algorithms that give the same bits each time, or the fast ones, for this process from here on.

    To be called before anything runs on a GPU: cuBLAS reads its variable then. Flash attention and the
    compiler look at the same switch. An operation without such an algorithm raises RuntimeError with its
    name. Raises UserError where the environment says otherwise."""
    if wanted:
        _fix_workspace()
    torch.use_deterministic_algorithms(wanted)
    # Filling new memory finds code that reads it unwritten. It changes no result and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _fix_workspace() -> None:
    """Let cuBLAS work in buffers of fixed sizes."""
    chosen = os.environ.get(_WORKSPACE)
    if chosen in _FIXED:
        return
    if chosen is not None:
        raise UserError(
            f"train.deterministic = true and {_WORKSPACE}={chosen}: it must be {_FIXED[0]} (or {_FIXED[1]}); "
            "unset the variable"
        )
    if torch.cuda.is_initialized():
        raise UserError(
            f"train.deterministic = true, and the GPU was in use before it was set; start again with "
            f"{_WORKSPACE}={_FIXED[0]} in the environment"
        )
    os.environ[_WORKSPACE] = _FIXED[0]
