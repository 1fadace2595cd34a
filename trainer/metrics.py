"""What a batch says about the policy, under TRL's names; and where it is written: metrics.jsonl, the screen, TensorBoard if asked.

metrics.jsonl holds nothing that depends on the clock: a run that was killed and resumed ends with the same bytes as one that was not.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from schemas.commit import commit_bytes
from trainer.losses.side import Side

NAMES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
_LINE_SECONDS = 10


@torch.no_grad()
def sums(losses: torch.Tensor, chosen: Side, rejected: Side, beta: float) -> torch.Tensor:
    """(len(NAMES) + 1,) float64: the sum over the batch of each metric, and the number of pairs."""
    win, lose = beta * chosen.logratios, beta * rejected.logratios
    columns = [
        losses,
        win,
        lose,
        (win > lose).float(),
        win - lose,
        chosen.logps,
        rejected.logps,
        torch.ones_like(losses),
    ]
    return torch.stack([column.detach().double().sum() for column in columns])


def none(device: torch.device) -> torch.Tensor:
    return torch.zeros(len(NAMES) + 1, dtype=torch.float64, device=device)


def means(totals: torch.Tensor, prefix: str = "") -> dict[str, float]:
    """Name -> mean over all pairs; empty where there was no pair."""
    *values, pairs = totals.tolist()
    return {prefix + name: value / pairs for name, value in zip(NAMES, values, strict=True)} if pairs else {}


class Log:
    """Rank 0's record. `start` is the step resumed from: what was written after it is dropped, since it is made again."""

    def __init__(self, folder: Path, start: int, total: int, tensorboard: bool):
        self._path = folder / "metrics.jsonl"
        self._truncate(start)
        self._file = open(self._path, "a")  # noqa: SIM115
        self._board = _board(folder, start) if tensorboard else None
        self._bar = (
            tqdm(total=total, initial=start, unit=" step", dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )
        self._total, self._said, self._begun, self._tokens = total, 0.0, time.monotonic(), 0

    def _truncate(self, start: int) -> None:
        kept = []
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            with contextlib.suppress(ValueError):  # a line cut off by a kill
                if json.loads(line)["step"] <= start and start > 0:
                    kept.append(line + "\n")
        commit_bytes(self._path, "".join(kept).encode())

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def step(self, step: int, values: dict[str, float], tokens: int) -> None:
        """A training step's metrics, to the record and to the screen."""
        self.write(step, values)
        self._tokens += tokens
        rate = self._tokens / max(1e-9, time.monotonic() - self._begun)
        shown = f"loss {values['loss']:.4f}  accuracy {values['rewards/accuracies']:.2f}  margin {values['rewards/margins']:.4f}  {rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(shown)
        elif step == self._total or time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            self.say(f"step {step}/{self._total}  {shown}")

    def say(self, text: str) -> None:
        tqdm.write(text) if self._bar is not None else print(text, flush=True)

    def close(self) -> None:
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, start: int):
    from schemas.errors import UserError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard = true needs TensorBoard: pip install 'prefmill[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
