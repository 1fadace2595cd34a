"""transformers imported without what it loads wherever it is installed (schemas/forward/hiding.py).

- torchao: only the optimizers need it (trainer/optimizers.py), and they import it themselves.
- triton, where no GPU is: torch's compiler for a CPU does without.

Import this module before anything of transformers' models.
"""

import torch

from schemas.forward.hiding import hidden

_UNUSED = ("torchao",) if torch.cuda.is_available() else ("torchao", "triton")

with hidden(*_UNUSED):
    import torch.nn.attention.varlen
    import transformers.modeling_utils  # noqa: F401
