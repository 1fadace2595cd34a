"""One side of a batch of pairs: per-token log-probs of policy and reference over the response's tokens."""

from dataclasses import dataclass, field, replace

import torch


@dataclass(frozen=True)
class Side:
    """All (B, T), nat; 0 where `mask` is 0, which is right of the response's last token. Gradients flow through `token_logps` alone.

    What stands below `mask` is there where the loss's NEEDS, or its Config's, name it."""

    token_logps: torch.Tensor
    ref_token_logps: torch.Tensor
    mask: torch.Tensor
    edit_mask: torch.Tensor | None = (
        None  # "edit_mask": 1 where the token is in the diff of the two responses
    )
    quality: "Side | None" = None  # "quality": the same response under the quality prompt, by the policy as it is now; without gradient
    scores: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # "score.<scorer>": (B,) by the scorer's name
    baseline: "Side | None" = (
        None  # "baseline", of the chosen side: another response to the prompt, (B, T) with a T of its own
    )

    @property
    def logps(self) -> torch.Tensor:
        """(B,) log π(y|x), summed over the response's tokens."""
        return self.token_logps.sum(-1)

    @property
    def ref_logps(self) -> torch.Tensor:
        """(B,) log ref(y|x)."""
        return self.ref_token_logps.sum(-1)

    @property
    def token_logratios(self) -> torch.Tensor:
        """(B, T) log π − log ref."""
        return self.token_logps - self.ref_token_logps

    @property
    def logratios(self) -> torch.Tensor:
        """(B,) log π(y|x) − log ref(y|x): differences first, since the two sums are large and nearly equal."""
        return self.token_logratios.sum(-1)

    @property
    def lengths(self) -> torch.Tensor:
        """(B,) tokens."""
        return self.mask.sum(-1)

    @property
    def mean_logps(self) -> torch.Tensor:
        """(B,) log π(y|x) per token."""
        return self.logps / self.lengths

    @property
    def mean_logratios(self) -> torch.Tensor:
        """(B,) the log-ratio per token."""
        return self.logratios / self.lengths

    def at_start(self) -> "Side":
        """This side if the policy were exactly the reference: what a loss must be at step 0 is what it says of this."""
        parts = {name: part.at_start() for name in ("quality", "baseline") if (part := getattr(self, name))}
        return replace(self, token_logps=self.ref_token_logps, **parts)

    def parts(self) -> "list[Side]":
        """This side and what hangs on it, each a response under a prompt."""
        return [part for part in (self, self.quality, self.baseline) if part]
