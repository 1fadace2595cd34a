"""transformers imported without torchao, which it loads wherever it is installed (schemas/forward/hiding.py).

Only the optimizers need it (trainer/optimizers.py), and they import it themselves. Import this module before
anything of transformers' models.
"""

from schemas.forward.hiding import hidden

with hidden("torchao"):
    import transformers.modeling_utils  # noqa: F401
