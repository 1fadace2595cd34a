"""One side of a batch of pairs: per-token log-probs of policy and reference over the response's tokens.

Loss files take `Tensor` and `log_sigmoid` from here. Neither imports torch until a loss is computed: a
recipe's options are checked long before that, by commands that must not wait for torch.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor as Tensor  # for the loss files too
else:
    Tensor = Any  # a name for annotations


def log_sigmoid(values: Tensor) -> Tensor:
    """log σ, elementwise; exact also where σ is near 0."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(values)


@dataclass(frozen=True)
class Side:
    """One response of each of B pairs. The tensors are (B, T), in nat, and 0 where `mask` is 0.

    `mask` is 0 to the right of a response's last token. Gradients flow through `token_logps` alone. A field
    below `mask` is set only if the loss's options name it in their `needs`; its comment gives that name."""

    token_logps: Tensor
    ref_token_logps: Tensor
    mask: Tensor
    # "edit_mask": 1 where the token is in the diff of the two responses.
    edit_mask: Tensor | None = None
    # "quality": the same response under the quality prompt, by the policy as it is now; without gradient.
    quality: "Side | None" = None
    # "score.<scorer>": (B,) scores by the scorer's name.
    scores: dict[str, Tensor] = field(default_factory=dict)
    # "baseline", of the chosen side only: another response to the prompt, (B, T) with a T of its own.
    baseline: "Side | None" = None

    @property
    def logps(self) -> Tensor:
        """(B,) log π(y|x), summed over the response's tokens."""
        return self.token_logps.sum(-1)

    @property
    def ref_logps(self) -> Tensor:
        """(B,) log ref(y|x)."""
        return self.ref_token_logps.sum(-1)

    @property
    def token_logratios(self) -> Tensor:
        """(B, T) log π − log ref."""
        return self.token_logps - self.ref_token_logps

    @property
    def logratios(self) -> Tensor:
        """(B,) log π(y|x) − log ref(y|x). Token by token first: the two sums are large and nearly equal."""
        return self.token_logratios.sum(-1)

    @property
    def lengths(self) -> Tensor:
        """(B,) number of tokens."""
        return self.mask.sum(-1)

    @property
    def mean_logps(self) -> Tensor:
        """(B,) log π(y|x) per token."""
        return self.logps / self.lengths

    @property
    def mean_logratios(self) -> Tensor:
        """(B,) the log-ratio per token."""
        return self.logratios / self.lengths

    def at_start(self) -> "Side":
        """This side as it would be if the policy were exactly the reference.

        A loss of two such sides is what the loss must be at step 0."""
        changed: dict[str, Any] = {"token_logps": self.ref_token_logps}
        if self.quality is not None:
            changed["quality"] = self.quality.at_start()
        if self.baseline is not None:
            changed["baseline"] = self.baseline.at_start()
        return replace(self, **changed)

    def parts(self) -> "list[Side]":
        """This side and the sides it carries, each a response under a prompt."""
        return [side for side in (self, self.quality, self.baseline) if side is not None]
